"""GRPO's arithmetic on verl's core algorithms: advantages, clipped policy loss, KL penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from verl.trainer.ppo import core_algos  # pyright: ignore[reportMissingImports]
from verl.workers.config import FSDPActorConfig  # pyright: ignore[reportMissingImports]

from methods.training.grpo.estimators import Estimator

Baseline = Literal["leave_one_out", "mean", "standardised"]

# verl's loss always has a second clip for negative advantages (dual clip); this far out it never acts.
NO_DUAL_CLIP = 1e9


@dataclass(frozen=True)
class Objective:
    """epsilon: clip of the ratio on both sides. beta: weight of the KL penalty, 0 for none.

    loss_agg, by verl's names: how tokens of answers of different lengths count. token-mean: all alike, so
    that an answer counts by its length (DAPO). seq-mean-token-mean: all answers alike, so that a token of a
    short one counts more (GRPO). seq-mean-token-sum-norm: a token counts 1 / canvas whatever the length of
    its answer, which favours neither (Dr. GRPO).
    """

    epsilon: float
    beta: float
    group: int
    loss_agg: str = "token-mean"


@dataclass(frozen=True)
class Targets:
    """What the loss compares, all [answers, canvas]: log-probabilities before the update and of the reference
    (None: no penalty), advantages, and the mask of tokens that count. ``tokens`` counts them over all
    workers, ``answers`` the answers with any (0: those here).
    """

    old: Tensor
    reference: Tensor | None
    advantages: Tensor
    mask: Tensor
    tokens: int
    world: int
    answers: int = 0


def advantages(rewards: Tensor, groups: Sequence[str], baseline: Baseline) -> Tensor:
    """Advantages [answers] of ``rewards`` [answers] within their groups: r - mean of the others, r - mean, or
    z-score.
    """
    column, ones, index = (
        rewards[:, None].double(),
        torch.ones(len(rewards), 1, dtype=torch.float64),
        np.array(groups),
    )
    if baseline == "leave_one_out":
        found, _ = core_algos.get_adv_estimator_fn("rloo")(
            token_level_rewards=column, response_mask=ones, index=index
        )
    else:
        found, _ = core_algos.compute_grpo_outcome_advantage(
            column, ones, index, norm_adv_by_std_in_grpo=baseline == "standardised"
        )
    return found.squeeze(1).float()


def informative(rewards: Tensor, groups: Sequence[str]) -> Tensor:
    """Boolean [answers]: whether the answer's group has rewards that differ. The others teach nothing and are
    left out.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    keep = torch.zeros(len(rewards), dtype=torch.bool)
    for indices in members.values():
        values = rewards[indices]
        keep[indices] = bool(values.max() - values.min() > 1e-8)
    return keep


def _config(objective: Objective, targets: Targets, count: int) -> FSDPActorConfig:
    config = FSDPActorConfig(
        clip_ratio=objective.epsilon,
        clip_ratio_low=objective.epsilon,
        clip_ratio_high=objective.epsilon,
        clip_ratio_c=NO_DUAL_CLIP,
        loss_agg_mode=objective.loss_agg,
        ppo_micro_batch_size_per_gpu=1,
        rollout_n=objective.group,
    )
    answers = targets.answers or int(targets.mask.any(-1).sum())
    config.global_batch_info.update(
        dp_size=targets.world, batch_num_tokens=count, global_batch_size=max(1, answers)
    )
    return config


@dataclass(frozen=True)
class Loss:
    """``value`` (scaled by the number of workers, whose gradients are averaged), and sums per answer
    [answers] for the log.
    """

    value: Tensor
    clipped: Tensor
    ratio: Tensor
    kl: Tensor
    count: Tensor


def policy_loss(new: Tensor, targets: Targets, objective: Objective, estimator: Estimator) -> Loss:
    """Clipped loss plus penalty of estimates ``new`` [answers, canvas].

    Of estimators at the level of the sequence, the ratio is exp of the difference of sums divided by L, and
    the penalty k2 / L.
    """
    old, reference, mask, count = targets.old, targets.reference, targets.mask.float(), targets.tokens
    advantage, scale = targets.advantages, torch.ones(len(new), 1)
    if estimator.level == "sequence":
        scale = 1.0 / mask.sum(-1, keepdim=True).clamp(min=1)
        new, old = ((value * mask).sum(-1, keepdim=True) * scale for value in (new, old))
        reference = None if reference is None else (reference * mask).sum(-1, keepdim=True) * scale
        advantage, mask = advantage[:, :1], mask.amax(-1, keepdim=True)
    config = _config(objective, targets, count)
    clipped_loss: Any = core_algos.get_policy_loss_fn("vanilla")
    value, _ = clipped_loss(
        old_log_prob=old,
        log_prob=new,
        advantages=advantage,
        response_mask=mask,
        loss_agg_mode=objective.loss_agg,
        config=config,
    )
    penalty = torch.zeros_like(new)
    if reference is not None:
        # At the level of the sequence both are divided by L, and half the square of the difference of sums by
        # L is wanted.
        penalise: Any = core_algos.kl_penalty
        penalty = penalise(new / scale.sqrt(), reference / scale.sqrt(), estimator.kl)
        value = value + objective.beta * core_algos.agg_loss(
            penalty, mask, objective.loss_agg, **config.global_batch_info
        )
    ratio = (new - old).detach().exp()
    outside = torch.where(advantage > 0, ratio > 1 + objective.epsilon, ratio < 1 - objective.epsilon)
    sums = [
        (part.detach() * mask).sum(-1) for part in (outside.float(), ratio, penalty, torch.ones_like(mask))
    ]
    return Loss(value, *sums)
