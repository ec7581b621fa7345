"""The canvas: the only place where a token is written.

A row is a prompt followed by ``new_tokens`` unwritten positions. Positions are row coordinates
(0 = first prompt token) whatever the batch; the padding that batching needs stays in here.
A suite or a method that wants several texts side by side divides the row into blocks; each then ends on its
own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch

from harness.decoding.meter import Meter
from harness.decoding.row import Row
from harness.decoding.rules import Rules
from harness.model.text import StopStrings
from harness.records.schema import StopRule


class Canvas:
    """A batch of rows with their token ids on the device, the meter and the stop rule.

    ``blocks``: lengths that every row is divided into from the start, empty: one text. ``live``: rows that
    are decoded at once, the others wait until one of them is done; null: all.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        *,
        vocab_size: int,
        mask_id: int | None,
        eos_ids: Sequence[int],
        device: torch.device | str = "cpu",
        stop_rule: StopRule = "harness",
        seeds: Sequence[int] | None = None,
        first_block: int = 8,
        blocks: Sequence[int] = (),
        stops: StopStrings | None = None,
        live: int | None = None,
    ) -> None:
        self.live = len(prompts) if live is None else min(live, len(prompts))
        fill_id = mask_id if mask_id is not None else next(iter(eos_ids), 0)
        self.rules = Rules(
            new_tokens, vocab_size, mask_id, frozenset(eos_ids), fill_id, stop_rule, first_block, stops
        )
        self.meter = Meter(len(prompts), device)
        width = max(len(prompt) for prompt in prompts) + new_tokens
        self.ids = torch.full((len(prompts), width), fill_id, dtype=torch.long, device=device)
        self._lines = self.ids.unbind()
        for index, prompt in enumerate(prompts):
            self.ids[index, : len(prompt)] = torch.tensor(prompt, dtype=torch.long, device=device)
        seeds = seeds if seeds is not None else range(len(prompts))
        places = enumerate(zip(prompts, seeds, strict=True))
        self.rows = [
            Row(self.rules, self.meter, self.ids.device, partial(self.write, index), index, prompt, seed)
            for index, (prompt, seed) in places
        ]
        self.blocks = tuple(blocks)
        for row in self.rows if blocks else []:
            row.divide(blocks)

    def admit(self, row: int) -> None:
        """A waiting row's turn has come: its own times count from now (called by decoders' loops)."""
        meter = self.meter
        if self.live < len(self.rows) and meter.started is not None:
            meter.rows[row].admitted_s = time.perf_counter() - meter.started

    def write(self, row: int, at: Sequence[int], values: Sequence[int]) -> None:
        """Mirror a row's commit on the device (called by Row; not for methods)."""
        device = self.ids.device
        self._lines[row].index_copy_(0, torch.tensor(at, device=device), torch.tensor(values, device=device))
