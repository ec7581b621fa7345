"""The two parallel rules of dInfer (arXiv 2510.08666; inclusionAI/dInfer fce4e32): hierarchy and credit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.rules.rule import Rule, above, at_least, ranked
from methods.rules.view import View


class DInferRule(Rule):
    """Several passes before it looks whether the block is complete, and the end at the first block with an
    end-of-text.

    Departures: a greedy token is never the mask id (there a position whose likeliest token is the mask
    waits); end-of-text ids stay in the answer (there they are dropped, even from the prompt).
    """

    def passes(self, live: int) -> int:
        return max(min(live // self.config.expected_tpf, self.config.maximum_unroll), 1)

    def finished(self, block: Span) -> bool:
        """The answer ends here; with early_stop the rest becomes end-of-text (not where the harness' own
        early exit applies).
        """
        row, ends = self.row, [p for p in range(*block) if self.row.ends_answer(p, self.row.token(p))]
        rest = row.masked() if ends and self.config.early_stop and not row.stopped else []
        if rest:
            row.commit(rest, [row.token(ends[0])] * len(rest))
        return bool(ends)


class HierarchyRule(DInferRule):
    """Divide and conquer: the best position of every run of masks above ``low_threshold``, all above
    ``threshold``, and the very best.
    """

    def confidence(self, view: View) -> Tensor:
        return view.logits.log_softmax(-1).gather(1, view.ids.unsqueeze(1)).squeeze(1).exp()

    def choose(self, view: View, score: Tensor) -> list[int]:
        values, tops = score.tolist(), []
        for run in _runs(view):
            best = max(values[k] for k in run)
            tops += [k for k in run if values[k] == best]
        chosen = above(score, self.config.low_threshold, tops)
        return sorted(
            {*chosen, *above(score, self.config.threshold, view.live), *ranked(score, view.live)[:1]}
        )


class CreditRule(DInferRule):
    """Accumulated credit: tokens that stay on top of a position gain in its logits; then a threshold relative
    to the best.

    Credit starts anew in every block; it is per position and token, float32.
    """

    def __init__(self, row: Row, spec: ModelSpec, config: Any) -> None:
        super().__init__(row, spec, config)
        self.start, self.credit = 0, None

    def begin(self, block: Span) -> None:
        self.start, self.credit = block[0], None

    def confidence(self, view: View) -> Tensor:
        """Probabilities under the logits that the credit has raised; the view gets those."""
        config, logits = self.config, view.logits
        live = torch.tensor(view.live, device=logits.device)
        top = logits[live].softmax(-1).max(-1)
        if self.credit is None:
            size = view.step.block[1] - self.start
            self.credit = torch.zeros(size, logits.shape[1], device=logits.device)
        else:
            self.credit *= config.decay_beta
        place = torch.tensor([view.at[k] - self.start for k in view.live], device=logits.device)
        self.credit[place, top.indices] += top.values**config.boost_gamma
        view.raise_logits(live, config.credit_alpha * (self.credit[place] + 1).log())
        return view.probability

    def choose(self, view: View, score: Tensor) -> list[int]:
        index = torch.tensor(view.live, device=score.device)
        return at_least(score, min(float(score[index].max()) - 1e-5, self.config.threshold), view.live)


def _runs(view: View) -> list[list[int]]:
    """Maximal runs of adjacent open positions of the block, as indices into ``view.at``."""
    runs: list[list[int]] = []
    for k in view.live:
        if runs and view.at[runs[-1][-1]] == view.at[k] - 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs
