"""Lockstep as a pair of hooks for Dream's own sampler, or for any decoder of methods.hooks.

hooks = LockstepHooks(Config(r_length=48, a_length=16, steps=8), spec)
decoder = Vanilla(hooks.generation_logits_hook_func, hooks.generation_tokens_hook_func)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.model import ModelSpec
from methods.base import SettingError, propose
from methods.lockstep import Config, Schedule, Span, layout, tail_config


@dataclass
class TensorBoard:
    """The two blocks inside Dream's sampler: ``x`` is the row [1, length] before the sampler touched it."""

    x: Tensor
    spans: tuple[Span, Span]
    mask_id: int
    seed: int = 0

    def __post_init__(self) -> None:
        self.rng = torch.Generator(self.x.device).manual_seed(self.seed)

    def masked(self, start: int, stop: int) -> list[int]:
        return ((self.x[0, start:stop] == self.mask_id).nonzero().squeeze(1) + start).tolist()

    def settled(self, index: int) -> bool:
        return not self.masked(*self.spans[index])

    def abandon(self, index: int) -> None:
        raise SettingError(
            "stop_r_when_a_done does nothing inside Dream's sampler, which runs all of its steps: set it "
            "to false"
        )

    def commit(self, at: Sequence[int], ids: Sequence[int], confidence: Sequence[float]) -> None:
        self.x[0, at] = torch.tensor(ids, dtype=self.x.dtype, device=self.x.device)


class LockstepHooks:
    """The pair ``generation_logits_hook_func``, ``generation_tokens_hook_func``; the same tokens as the
    decoder.

    The sampler must forward the whole row, know no early exit (here: the reference stop rule) and run at
    least as many steps as lockstep needs: N for jacobi and 2N for gauss_seidel with ``steps`` = N. What the
    sampler itself reveals is taken back. One row at a time.
    """

    def __init__(self, config: Config, spec: ModelSpec) -> None:
        if config.prompt_cache or config.attention != "full":
            raise SettingError(
                "hooks run with full attention and no cache: set prompt_cache=false and attention=full"
            )
        if config.stop_r_when_a_done:
            raise SettingError(
                "stop_r_when_a_done needs an early exit, which Dream's sampler has not: set it to false"
            )
        if spec.mask_id is None:
            raise SettingError(
                "lockstep needs a model with a mask token: choose a diffusion model with --model"
            )
        self.config, self.spec, self.mask_id = config, spec, spec.mask_id
        self.schedule: Schedule | None = None
        self.board: TensorBoard | None = None

    def generation_logits_hook_func(self, step: int, x: Tensor, logits: Tensor) -> Tensor:
        """Remember the row [1, length] as the model saw it; logits pass through."""
        if self.board is not None:
            self.board.x = x.clone()
        return logits

    def generation_tokens_hook_func(self, step: int | None, x: Tensor, logits: Tensor | None) -> Tensor:
        """The row [1, length] with lockstep's tokens instead of the sampler's; the call without logits starts
        a row.
        """
        if logits is None or self.board is None or self.schedule is None:
            return self._start(x)
        turn = self.schedule.turn()
        if turn is not None:
            self.schedule.commit(
                turn, propose(logits[0, turn.at], self.board, self.spec, tail_config(self.config, turn))
            )
        return self.board.x

    def _start(self, x: Tensor) -> Tensor:
        masks = (x[0] == self.mask_id).nonzero().squeeze(1).tolist()
        if not masks:
            raise SettingError("the row has no masks to fill: raise max_new_tokens")
        spans = layout(masks[0], x.shape[1] - masks[0], self.config)
        if spans[1][1] != x.shape[1]:
            raise SettingError(
                f"r_length and a_length must fill the {x.shape[1] - masks[0]} masks of the row; drop one "
                "of them"
            )
        self.board = TensorBoard(x.clone(), spans, self.mask_id)
        self.schedule = Schedule(self.board, spans, self.config)
        return x
