"""dLLM-Cache (arXiv 2506.06295): prompt rows renewed every ``kp`` steps, response rows every ``kr``, in
between the least similar.

At every layer behind the first (which is always computed in full) a step recomputes the prompt's rows if it
is due, all response rows if those are due, and otherwise the ``rou`` share of response rows whose new value
vector is least similar (cosine) to the stored one. Keys, values, attention output and MLP output of all rows
are kept; what is not recomputed enters the residual stream from the store. There are no blocks in it:
"response" is the whole generation region, and steps are counted over the whole generation.

Rows that did not change have similarities that differ in the last bit only: of equal ones the lowest position
is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.layer import Layer
from harness.decoding.policy import CachePolicy, Step
from harness.decoding.row import Row


@dataclass
class Features:
    """Attention and MLP outputs [length, hidden] of each layer."""

    attention: dict[int, Tensor] = field(default_factory=dict)
    feed_forward: dict[int, Tensor] = field(default_factory=dict)


class DLLMCache(CachePolicy):
    """``kp``, ``kr``: refresh intervals in steps; ``share``: part of the response rows renewed between
    refreshes.
    """

    cached = True

    def __init__(self, kp: int, kr: int, share: float) -> None:
        self.kp, self.kr, self.share = kp, kr, share
        self.steps = 0
        self.features = Features()

    def request(self, row: Row, step: Step) -> Forward:
        whole, first = (0, row.length), self.steps == 0
        layers = _Refresh(
            self.features, row, self.steps % self.kp == 0, self.steps % self.kr == 0, self.share
        )
        self.steps += 1
        return Forward(feed=whole, at=step.at, keep=whole, fresh=first, layers=layers)


class _Refresh:
    """One step inside the layers."""

    uniform = False

    def __init__(self, features: Features, row: Row, prompt: bool, response: bool, share: float) -> None:
        self.features, self.row, self.prompt, self.response, self.share = (
            features,
            row,
            prompt,
            response,
            share,
        )

    def run(self, layer: Layer, x: Tensor) -> Tensor:
        normed, start, stop = layer.norm(x), self.row.prompt_length, self.row.length
        prompt, response = self.prompt or layer.index == 0, self.response or layer.index == 0
        rows = list(range(start)) if prompt else []
        if response:
            rows += range(start, stop)
        elif self.share > 0:
            values = layer.value(normed[start:])
            rows += [
                start + k
                for k in _least_similar(values, layer.values[start:stop], int((stop - start) * self.share))
            ]
            layer.values[start:stop] = values
        attention = self.features.attention.setdefault(layer.index, torch.zeros_like(x))
        forward = self.features.feed_forward.setdefault(layer.index, torch.zeros_like(x))
        if not rows:
            return x + attention + forward
        index = torch.tensor(rows, device=x.device)
        query, key, value = layer.project(normed[index], rows)
        layer.keys[index], layer.values[index] = key, value
        attention[index] = layer.attend(query, layer.keys[:stop], layer.values[:stop])
        behind = x + attention
        forward[index] = layer.feed_forward(behind[index])
        return behind + forward


def _least_similar(new: Tensor, old: Tensor, count: int) -> list[int]:
    """Ascending indices of the ``count`` rows [n, kv_heads, head_dim] with the smallest cosine between new
    and old.
    """
    values = F.cosine_similarity(new.flatten(1), old.flatten(1), dim=-1, eps=1e-8).tolist()
    return sorted(sorted(range(len(values)), key=values.__getitem__)[:count])
