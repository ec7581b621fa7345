"""Dream's generation hooks on any decoder that forwards the whole row at every step.

``generation_logits_hook_func(step, x, logits) -> logits`` sees the logits before tokens are chosen,
``generation_tokens_hook_func(step, x, logits) -> x`` the row after they are written; step is None, and logits
with it, in the one call before the first forward. x is [1, length] ids with the mask id where nothing is
written, logits are [1, length, vocab], aligned: ``logits[:, p]`` predicts the token at p. What a tokens hook
changes is written, rewritten or masked again on the canvas; the prompt stays as it is. A hook serves one row
at a time: use batch size 1 with hooks that remember something between calls.

    METHOD = Vanilla(my_logits_hook, my_tokens_hook)    # in mine.py: bench run --method ./mine.py
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Candidates, RowDecoder, Score, ask, propose

Asked = Generator[Forward, Any, Candidates]
LogitsHook = Callable[[int, Tensor, Tensor], Tensor]
TokensHook = Callable[[int | None, Tensor, Tensor | None], Tensor]


class HookedDecoder(RowDecoder):
    """A decoder whose instances may carry Dream-style hooks."""

    def __init__(self, logits_hook: LogitsHook | None = None, tokens_hook: TokensHook | None = None) -> None:
        self.logits_hook, self.tokens_hook = logits_hook, tokens_hook

    @property
    def hooked(self) -> bool:
        return self.logits_hook is not None or self.tokens_hook is not None

    def hooks(self, row: Row) -> RowHooks:
        """This decoder's hooks on one row."""
        return RowHooks(row, self.logits_hook, self.tokens_hook)


@dataclass
class RowHooks:
    """The hooks at work on one row: ``begin`` once, then ``look``, commits, ``written`` at every step."""

    row: Row
    logits_hook: LogitsHook | None = None
    tokens_hook: TokensHook | None = None
    seen: Tensor | None = None

    def begin(self) -> None:
        """The call before the first forward."""
        self._call(None, None)

    def look(self, request: Forward) -> Generator[Forward, Tensor, Tensor]:
        """Run ``request`` and return its logits [len(at), vocab] as the logits hook leaves them.

        With a hook set, the logits of the whole row are computed, as the hooks expect.
        """
        if self.logits_hook is None and self.tokens_hook is None:
            return (yield request)
        logits = yield Forward(
            feed=(0, self.row.end), at=range(self.row.end), mask=request.mask, cached=False
        )
        if self.logits_hook is not None:
            logits = self.logits_hook(
                self.row.nfe - 1, self._ids(logits.device), logits.unsqueeze(0)
            ).squeeze(0)
        self.seen = logits
        return logits[torch.tensor(list(request.at), dtype=torch.long, device=logits.device)]

    def ask(
        self,
        request: Forward,
        spec: ModelSpec,
        config: Any,
        score: Score = "probability",
        double: bool = False,
    ) -> Asked:
        """Candidates of ``request``, from the logits as the logits hook leaves them."""
        if self.logits_hook is None and self.tokens_hook is None:
            return (yield from ask(request, self.row, spec, config, score, double))
        logits = yield from self.look(request)
        return propose(logits, self.row, spec, config, score, double)

    def written(self) -> None:
        """The call after a step's tokens are written."""
        if self.seen is not None:
            self._call(self.row.nfe - 1, self.seen)

    def _call(self, step: int | None, logits: Tensor | None) -> None:
        if self.tokens_hook is None:
            return
        before = self._ids(logits.device if logits is not None else self.row.rng.device)
        after = self.tokens_hook(step, before.clone(), None if logits is None else logits.unsqueeze(0))
        old, new = before[0].tolist(), after[0].tolist()
        changed = [position for position in range(len(old)) if old[position] != new[position]]
        if changed:
            self.row.revise(changed, [new[position] for position in changed])

    def _ids(self, device: torch.device) -> Tensor:
        return torch.tensor([[self.row.token(position) for position in range(self.row.end)]], device=device)
