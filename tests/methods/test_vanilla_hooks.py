"""Dream's hooks on logits and tokens: signatures, call order, and their effect on what is written."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.vanilla import Config, Vanilla
from tests.helpers import backbone, canvas


def test_hooks_are_called_as_dream_does() -> None:
    calls: list[tuple[str, int | None, tuple[int, ...], tuple[int, ...] | None]] = []

    def logits_hook(step: int, x: Tensor, logits: Tensor) -> Tensor:
        calls.append(("logits", step, tuple(x.shape), tuple(logits.shape)))
        return logits

    def tokens_hook(step: int | None, x: Tensor, logits: Tensor | None) -> Tensor:
        calls.append(("tokens", step, tuple(x.shape), None if logits is None else tuple(logits.shape)))
        return x

    model = backbone("dream_tiny")
    page = canvas(model, [[5, 6, 7]], 4)
    Vanilla(logits_hook, tokens_hook).decode(model, page, Config(steps=2))
    shape = (1, 7)
    assert calls == [
        ("tokens", None, shape, None),
        ("logits", 0, shape, (1, 7, 256)),
        ("tokens", 0, shape, (1, 7, 256)),
        ("logits", 1, shape, (1, 7, 256)),
        ("tokens", 1, shape, (1, 7, 256)),
    ]
    plain = canvas(model, [[5, 6, 7]], 4)
    Vanilla().decode(model, plain, Config(steps=2))
    assert page.rows[0].output == plain.rows[0].output


def test_logits_hook_bans_a_token_and_tokens_hook_fixes_one() -> None:
    model = backbone("dream_tiny")
    plain = canvas(model, [[5, 6, 7]], 8)
    Vanilla().decode(model, plain, Config())
    banned = plain.rows[0].output[0]

    def ban(step: int, x: Tensor, logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[..., banned] = -torch.inf
        return logits

    def fix(step: int | None, x: Tensor, logits: Tensor | None) -> Tensor:
        if step is None:
            x[0, 5] = 42
        return x

    page = canvas(model, [[5, 6, 7]], 8)
    Vanilla(ban, fix).decode(model, page, Config())
    assert banned not in page.rows[0].output
    assert page.rows[0].output[2] == 42
