"""The answers of a step: problems drawn, answered and graded, and further ones for those that teach nothing.

A group whose answers all have one reward has no advantages. With ``resample`` > 0 further problems take the
place of such groups (dynamic sampling of DAPO, arXiv 2503.14476, section 3.2), in at most so many rounds per
step and never more problems in a round than a step has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verl import DataProto  # pyright: ignore[reportMissingImports]

from methods.training.grpo.objective import informative
from methods.training.grpo.options import GRPOOptions
from methods.training.grpo.reward_client import RewardProcess, total
from methods.training.grpo.rewards import Reward
from methods.training.grpo.tasks import Problem, TaskSource


@dataclass(frozen=True)
class Setting:
    """What the loop works with. ``encode`` turns a prompt into ids."""

    options: GRPOOptions
    group: Any
    tasks: TaskSource
    rewards: RewardProcess
    encode: Callable[[str], list[int]]
    level: str


@dataclass
class GrpoStep:
    """One step's answers on the driver: their problems, group names, rewards and decoding results."""

    index: int
    tasks: list[Problem]
    groups: list[str]
    data: DataProto
    rewards: list[Reward]
    values: Tensor


def answer_seed(seed: int, step: int, index: int) -> int:
    """Seed of one answer's masks."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{index}".encode()).digest()[:7], "big")


def prompts_of(
    setting: Setting, step: int, extra: int = 0, count: int | None = None
) -> tuple[list[Problem], list[str], DataProto]:
    """The problems of a step, each ``group`` times in a row, as the workers take them; ``count`` further ones
    of its round ``extra`` > 0.
    """
    options = setting.options
    drawn = setting.tasks.draw(step, count or options.prompts, extra)
    tasks = [task for task in drawn for _ in range(options.group)]
    # Answers are numbered over all rounds, so that none shares its random numbers with another.
    first, turn = extra * options.prompts * options.group, step * (options.resample + 1) + extra
    groups = [str((first + index) // options.group) for index in range(len(tasks))]
    ids = [setting.encode(task.prompt) for task in tasks]
    prompts = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
    for row, found in zip(prompts, ids, strict=True):
        row[: len(found)] = torch.tensor(found)
    tensors = {
        "prompts": prompts,
        "prompt_length": torch.tensor([len(found) for found in ids]),
        "repeat": torch.tensor([turn * options.group + index % options.group for index in range(len(ids))]),
        "seed": torch.tensor([answer_seed(options.seed, step, first + index) for index in range(len(ids))]),
    }
    return tasks, groups, DataProto.from_dict(tensors)


def rewarded(setting: Setting, step: int, extra: int = 0, count: int | None = None) -> GrpoStep:
    """Roll out one step, or ``count`` problems of its further round ``extra``, and grade the answers."""
    tasks, groups, data = prompts_of(setting, step, extra, count)
    data = data.union(setting.group.generate(data))
    texts: list[str | None] = list(data.non_tensor_batch["text"])
    rewards = setting.rewards.grade(list(zip(tasks, texts, strict=True)))
    values = torch.tensor([total(reward, setting.options.weights) for reward in rewards])
    return GrpoStep(step, tasks, groups, data, rewards, values)


def sampled(setting: Setting, index: int) -> tuple[GrpoStep, GrpoStep]:
    """(the answers to the step's own problems, these and the further ones): the first tell how good the
    policy is, all of them what it learns from.
    """
    options, found = setting.options, [rewarded(setting, index)]
    useful = useful_groups(found[0])
    for extra in range(1, options.resample + 1):
        missing = options.prompts - useful
        if missing <= 0:
            break
        found.append(rewarded(setting, index, extra, shareable(missing, options)))
        useful += useful_groups(found[-1])
    return found[0], found[0] if len(found) == 1 else joined(found)


def useful_groups(step: GrpoStep) -> int:
    """Groups that the update can use: rewards that differ."""
    keep = informative(step.values, step.groups) & step.data.batch["scored"].any(-1)
    return len({step.groups[place] for place in keep.nonzero().flatten().tolist()})


def shareable(missing: int, options: GRPOOptions) -> int:
    """So many problems, or a few more, that their answers divide among the workers."""
    return next(
        count for count in range(missing, options.prompts + 1) if count * options.group % options.workers == 0
    )


def joined(steps: Sequence[GrpoStep]) -> GrpoStep:
    """The answers of several rounds as those of one step."""
    longest = max(step.data.batch["prompts"].shape[1] for step in steps)
    tensors = {
        name: torch.cat([_wide(step.data.batch[name], longest, name) for step in steps])
        for name in steps[0].data.batch.keys()  # noqa: SIM118
    }
    others = {
        name: np.concatenate([step.data.non_tensor_batch[name] for step in steps])
        for name in steps[0].data.non_tensor_batch
    }
    return GrpoStep(
        steps[0].index,
        [task for step in steps for task in step.tasks],
        [group for step in steps for group in step.groups],
        DataProto.from_dict(tensors, others),
        [reward for step in steps for reward in step.rewards],
        torch.cat([step.values for step in steps]),
    )


def _wide(tensor: Tensor, longest: int, name: str) -> Tensor:
    if name != "prompts":
        return tensor
    return torch.nn.functional.pad(tensor, (0, longest - tensor.shape[1]))
