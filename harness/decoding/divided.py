"""Rows of several texts side by side, such as a reasoning and an answer; each of these blocks ends on its
own.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.decoding.rules import CanvasError, Rules, Span


class Divided:
    """What a canvas row knows of its blocks. Without a division the whole generation region is one block."""

    prompt_length: int
    _rules: Rules
    _tokens: list[int]
    _step: list[int]
    _end: int
    _spans: list[Span]
    _abandoned: set[int]
    _searched: dict[int, tuple[int, int | None]]

    def written(self, position: int) -> bool:
        return position < self.prompt_length or self._step[position - self.prompt_length] >= 0

    def ends_answer(self, position: int, token: int) -> bool:
        """Whether ``token`` at ``position`` would be the end-of-text behind which nothing is left to say: the
        last block's.
        """
        return token in self._rules.eos_ids and position >= self.spans[-1][0]

    @property
    def spans(self) -> list[Span]:
        """The blocks of the generation region; one unless the suite or the method divided it."""
        return list(self._spans) or [(self.prompt_length, self._end)]

    @property
    def divided(self) -> bool:
        return bool(self._spans)

    @property
    def finals(self) -> list[Span]:
        """The part of each block that is answer: up to and including its first end-of-text or stop string,
        the whole block without one; of an abandoned block what lies before its first hole."""
        return [(start, self._final(index, start, stop)) for index, (start, stop) in enumerate(self.spans)]

    def _text_end(self, start: int, stop: int) -> int | None:
        """Behind the first stop string of the text that begins at ``start``, up to its first hole; what was
        searched is remembered.
        """
        stops = self._rules.stops
        if stops is None or self._rules.stop_rule != "harness":
            return None
        seen, end = self._searched.get(start, (start, None))
        hole = seen
        while hole < stop and self.written(hole):
            hole += 1
        if end is None and hole > seen:
            if stops.within(self._tokens[max(start, seen - stops.reach) : hole]):
                count = stops.end(self._tokens[start:hole])
                end = None if count is None else start + count
            self._searched[start] = (hole, end)
        return end

    def _forget(self, at: Sequence[int]) -> None:
        """What was searched of texts in which a position is written anew or taken back."""
        for start, (seen, _) in list(self._searched.items()):
            if any(start <= position < seen for position in at):
                del self._searched[start]

    def _final(self, index: int, start: int, stop: int) -> int:
        stop = self._text_end(start, stop) or stop
        for position in range(start, stop):
            if not self.written(position):
                if index in self._abandoned:
                    return position
            elif self._tokens[position] in self._rules.eos_ids:
                return position + 1
        return stop

    def divide(self, lengths: Sequence[int]) -> None:
        """Split the generation region into consecutive blocks, each an answer text with an end-of-text of its
        own.

        The region ends behind the last block. The early exit then waits for every block, and the text of the
        answer is that of all blocks in order. Raises CanvasError for an empty block, for blocks longer than
        the region, and once tokens are written.
        """
        total = sum(lengths)
        if not lengths or min(lengths) < 1 or total > self._end - self.prompt_length:
            raise CanvasError(
                f"blocks of {list(lengths)} tokens do not divide a region of {self._end - self.prompt_length}"
            )
        if self._spans or any(step >= 0 for step in self._step):
            raise CanvasError("divide comes before the first commit, and once")
        self._end = self.prompt_length + total
        stops = [self.prompt_length + sum(lengths[: k + 1]) for k in range(len(lengths))]
        self._spans = list(zip([self.prompt_length, *stops], stops, strict=False))

    def settled(self, index: int) -> bool:
        """Whether block ``index`` needs no more tokens: full, abandoned, or (harness stop rule) ended by
        end-of-text or a stop string.
        """
        start, stop = self.spans[index]
        hole = next((position for position in range(start, stop) if not self.written(position)), None)
        if hole is None or index in self._abandoned:
            return True
        ended = any(self._tokens[position] in self._rules.eos_ids for position in range(start, hole))
        return (ended and self._rules.stop_rule == "harness") or self._text_end(start, stop) is not None

    def abandon(self, index: int) -> None:
        """Declare that what block ``index`` still lacks stays unwritten because the method wants no more of
        it.
        """
        if not self._spans:
            raise CanvasError("only a block of a divided row can be abandoned; use close to end a row early")
        self._abandoned.add(index)
