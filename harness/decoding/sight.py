"""Who sees whom in one row's share of a pass, by number of query and key."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from harness.decoding.masks import Full, reaches
from harness.decoding.part import Part

SHORT = 128
"""Longest span whose ends are counted on the host."""


def dense(part: Part, keys: Sequence[int], device: torch.device) -> Tensor | None:
    """[fed, keys] of what fed positions may see of ``keys`` (ascending), None if they see everything."""
    mask = part.request.mask
    if isinstance(mask, Full) or mask.trivial(
        (part.feed[0], part.feed[-1]), (keys[0], keys[-1]), part.prompt
    ):
        return None
    key = tensor(keys, device)
    if len(part.feed) <= SHORT:
        # The ends are cheap to say here; a mask computed on the device is a dozen small operations.
        ends = reaches(mask, part.feed, part.prompt)
        if ends is not None:
            return key < torch.tensor(ends, device=device).unsqueeze(1)
    query = tensor(part.feed, device)
    return mask.allowed(query.unsqueeze(1), key.unsqueeze(0), part.prompt)


def tensor(positions: Sequence[int], device: torch.device) -> Tensor:
    if isinstance(positions, range):
        return torch.arange(positions.start, positions.stop, device=device)
    return torch.tensor(list(positions), dtype=torch.long, device=device)


class Sight:
    """What the queries of ``part`` may see of ``keys`` (ascending positions) and of the shadow rows behind
    them. ``cached``: some of the keys may be holes of the store, which nobody sees.
    """

    def __init__(self, part: Part, keys: Sequence[int], cached: bool, device: torch.device) -> None:
        self.part, self.keys, self.cached, self.device = part, keys, cached, device

    @property
    def queries(self) -> int:
        return self.part.size

    @property
    def width(self) -> int:
        """Keys and shadow rows."""
        return len(self.keys) + self.part.shadows

    @property
    def holes(self) -> bool:
        return self.cached and not self.part.gapless

    @cached_property
    def visible(self) -> Tensor:
        """[keys] that are fed or stored."""
        if not self.holes:
            return torch.ones(len(self.keys), dtype=torch.bool, device=self.device)
        visible = torch.zeros(len(self.keys), dtype=torch.bool, device=self.device)
        visible[tensor(self.part.feed, self.device)] = True
        visible[tensor(self.part.stored, self.device)] = True
        return visible

    def dense(self) -> Tensor | None:
        """[queries, width], true = may attend; None if everything is seen."""
        part, device, fed = self.part, self.device, len(self.part.feed)
        mask = dense(part, self.keys, device)
        if self.holes:
            mask = self.visible.expand(fed, -1) if mask is None else mask & self.visible
        shadow = part.request.shadow
        if shadow is None:
            return mask
        # Canvas queries never see shadow rows; those see their own group, and of the canvas what their own
        # mask allows.
        canvas = torch.ones(fed, len(self.keys), dtype=torch.bool, device=device) if mask is None else mask
        own = (
            shadow.mask.allowed(
                tensor(shadow.at, device).unsqueeze(1), tensor(self.keys, device).unsqueeze(0), part.prompt
            )
            & self.visible
        )
        blind = torch.zeros(fed, part.shadows, dtype=torch.bool, device=device)
        group = torch.arange(part.shadows, device=device) * shadow.groups // part.shadows
        return torch.cat([torch.cat([canvas, blind], 1), torch.cat([own, group.unsqueeze(1) == group], 1)])
