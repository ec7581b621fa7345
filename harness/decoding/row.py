"""A row of the canvas: one sequence being decoded, written through ``commit`` and ``revise`` alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.decoding.divided import Divided
from harness.decoding.meter import Meter
from harness.decoding.rules import CanvasError, Rules, Span

Mirror = Callable[[Sequence[int], Sequence[int]], None]


class Row(Divided):
    """One sequence being decoded. Methods read it freely and write through ``commit`` alone."""

    def __init__(
        self,
        rules: Rules,
        meter: Meter,
        device: torch.device,
        mirror: Mirror,
        index: int,
        prompt: Sequence[int],
        seed: int,
    ) -> None:
        """``mirror`` copies what is written (positions, ids) to the device."""
        self._rules, self._meter, self._device, self._mirror = rules, meter, device, mirror
        self.index, self._seed = index, seed
        self.prompt_length = len(prompt)
        self.length = len(prompt) + rules.new_tokens
        self._tokens = list(prompt) + [rules.fill_id] * rules.new_tokens
        self._step = [-1] * rules.new_tokens
        self._confidence: list[float | None] = [None] * rules.new_tokens
        self._end = self.length
        self._spans: list[Span] = []
        self._abandoned: set[int] = set()
        self._searched: dict[int, tuple[int, int | None]] = {}
        self._held = False
        self._frontier = self.prompt_length
        self._eos: int | None = None
        self._rng: torch.Generator | None = None

    @property
    def end(self) -> int:
        """First position behind the generation region (smaller than ``length`` once closed early)."""
        return self._end

    @property
    def frontier(self) -> int:
        """First unwritten position: everything before it is final text."""
        return self._frontier

    @property
    def stopped(self) -> bool:
        """Whether the harness' early exit applies: end-of-text or a stop string, no hole before it, in every
        block; a held row waits.
        """
        if self._rules.stop_rule == "reference" or self._held:
            return False
        if self._spans:
            return all(self.settled(index) for index in range(len(self._spans)))
        if self._frontier >= self._end or (self._eos is not None and self._eos < self._frontier):
            return True
        return self._text_end(self.prompt_length, self._end) is not None

    @property
    def eos_position(self) -> int | None:
        """First written end-of-text in the generation region, if any."""
        return self._eos

    @property
    def fill_id(self) -> int:
        """The id that unwritten positions hold."""
        return self._rules.fill_id

    @property
    def nfe(self) -> int:
        """Forward passes this row took part in so far."""
        return self._meter.rows[self.index].nfe

    @property
    def rng(self) -> torch.Generator:
        """The row's own random stream: the same in every batch."""
        if self._rng is None:
            self._rng = torch.Generator(self._device).manual_seed(self._seed)
        return self._rng

    def token(self, position: int) -> int:
        """The id at a position (the fill id where nothing is written yet)."""
        return self._tokens[position]

    def masked(self, start: int | None = None, stop: int | None = None) -> list[int]:
        """Unwritten positions in [start, stop), by default in the whole generation region."""
        first = self._frontier if start is None else max(start, self._frontier)
        last = self._end if stop is None else min(stop, self._end)
        offset = self.prompt_length
        return [p for p in range(first, last) if self._step[p - offset] < 0]

    def commit(
        self,
        at: Sequence[int],
        ids: Sequence[int] | Tensor,
        confidence: Sequence[float] | Tensor | None = None,
    ) -> None:
        """Write tokens for good. ``confidence`` (optional, same length) goes into the trace.

        Raises CanvasError for a position outside the region or already written, or a mask id.
        """
        started = self._meter.now()
        for position in at:
            if not self.prompt_length <= position < self._end:
                raise CanvasError(
                    f"commit at {position} is outside the generation region [{self.prompt_length}, "
                    f"{self._end})"
                )
            if self._step[position - self.prompt_length] >= 0:
                raise CanvasError(f"position {position} is already committed; use revise to change a token")
        if len(set(at)) != len(at):
            raise CanvasError(f"commit names a position twice: {sorted(at)}")
        if self.nfe == 0:
            raise CanvasError("commit before any forward pass")
        self._write(at, ids, confidence)
        self._meter.spent("write", started)

    def revise(
        self,
        at: Sequence[int],
        ids: Sequence[int] | Tensor,
        confidence: Sequence[float] | Tensor | None = None,
    ) -> None:
        """Write or rewrite tokens (uniform-state and remasking methods, token hooks that fix tokens before
        the first pass).

        The mask id takes a token back. Same errors as ``commit`` but for rewriting and masks.
        """
        started = self._meter.now()
        for position in at:
            if not self.prompt_length <= position < self._end:
                raise CanvasError(
                    f"revise at {position} is outside the generation region [{self.prompt_length}, "
                    f"{self._end})"
                )
        values: list[int] = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        masked = {k for k, value in enumerate(values[: len(at)]) if value == self._rules.mask_id}
        if masked and len(values) == len(at):
            self._take_back([at[k] for k in sorted(masked)])
            kept = [k for k in range(len(at)) if k not in masked]
            scores = confidence.tolist() if isinstance(confidence, Tensor) else confidence
            self._write(
                [at[k] for k in kept],
                [values[k] for k in kept],
                None if scores is None else [scores[k] for k in kept],
            )
        else:
            self._write(at, values, confidence)
        self._meter.spent("write", started)

    def hold(self, held: bool) -> None:
        """Keep the early exit waiting (true) because what is written may still be revised, or let it go on
        (false).
        """
        self._held = held
        self._advance()

    def close(self, end: int) -> None:
        """Declare that the generation region ends at ``end`` because the method goes no further.

        Raises CanvasError if a position before ``end`` is unwritten or one behind it is written, or a whole
        block would be cut off.
        """
        if self._spans and end <= self._spans[-1][0]:
            raise CanvasError(
                f"close at {end} cuts off the block that starts at {self._spans[-1][0]}; its text is part of "
                "the answer"
            )
        if not self.prompt_length <= end <= self._end:
            raise CanvasError(
                f"close at {end} is outside the generation region [{self.prompt_length}, {self._end}]"
            )
        if self.masked(stop=end):
            raise CanvasError(f"close at {end} leaves unwritten positions {self.masked(stop=end)[:5]} inside")
        if any(step >= 0 for step in self._step[end - self.prompt_length :]):
            raise CanvasError(f"close at {end} would cut off written positions")
        self._end = end
        if self._spans:
            self._spans[-1] = (self._spans[-1][0], end)

    def _take_back(self, at: Sequence[int]) -> None:
        self._forget(at)
        moved = self._eos in at
        for position in at:
            slot = position - self.prompt_length
            self._tokens[position], self._step[slot], self._confidence[slot] = self.fill_id, -1, None
            self._frontier = min(self._frontier, position)
        self._mirror(at, [self.fill_id] * len(at))
        self._meter.rows[self.index].finished_s = None
        if moved:
            self._seek_eos()
        self._advance()

    def _write(
        self, at: Sequence[int], ids: Sequence[int] | Tensor, confidence: Sequence[float] | Tensor | None
    ) -> None:
        rules = self._rules
        values: list[int] = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        scores = confidence.tolist() if isinstance(confidence, Tensor) else confidence
        if len(values) != len(at) or (scores is not None and len(scores) != len(at)):
            raise CanvasError(f"commit of {len(at)} positions with {len(values)} ids")
        step = max(self.nfe - 1, 0)
        self._forget(at)
        eos, moved = rules.eos_ids, self._eos in at
        for k, (position, value) in enumerate(zip(at, values, strict=True)):
            if not 0 <= value < rules.vocab_size or value == rules.mask_id:
                raise CanvasError(
                    f"id {value} at position {position} is no token (mask id or outside the vocabulary)"
                )
            slot = position - self.prompt_length
            self._tokens[position], self._step[slot] = value, step
            self._confidence[slot] = None if scores is None else float(scores[k])
            if value in eos and (self._eos is None or position < self._eos):
                self._eos = position
        if moved:
            self._seek_eos()
        if at:
            self._mirror(at, values)
        self._advance()

    def _seek_eos(self) -> None:
        """Look for the first written end-of-text where the one known is written over or taken back."""
        eos, offset = self._rules.eos_ids, self.prompt_length
        region = range(offset, self._end)
        self._eos = next((p for p in region if self._tokens[p] in eos and self._step[p - offset] >= 0), None)

    def _advance(self) -> None:
        while self._frontier < self._end and self._step[self._frontier - self.prompt_length] >= 0:
            self._frontier += 1
        meter, now = self._meter, time.perf_counter()
        if meter.started is None:
            return
        row = meter.rows[self.index]
        now -= meter.started + (row.admitted_s or 0.0)
        if row.first_block_s is None and (
            self.stopped or self._frontier >= min(self.prompt_length + self._rules.first_block, self._end)
        ):
            row.first_block_s = now
        if row.finished_s is None and self.stopped:
            row.finished_s = now

    @property
    def prompt(self) -> list[int]:
        return self._tokens[: self.prompt_length]

    @property
    def output(self) -> list[int]:
        """Ids of the generation region; unwritten positions hold the fill id."""
        return self._tokens[self.prompt_length : self._end]

    @property
    def step_map(self) -> list[int]:
        """Per output position: which of the row's forward passes (0-based) wrote it, -1 if none."""
        return self._step[: self._end - self.prompt_length]

    @property
    def confidences(self) -> list[float | None]:
        """Per output position: the probability the decoder committed it with, if it said so."""
        return self._confidence[: self._end - self.prompt_length]
