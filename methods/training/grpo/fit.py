"""The driver's loop: draw problems, roll out, reward, update, log. Holds no model.

Everything random is keyed by (seed, step), so weights, optimiser and step number are the whole state.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verl import DataProto  # pyright: ignore[reportMissingImports]

from methods.training.grpo.objective import advantages, informative
from methods.training.grpo.options import GRPOOptions
from methods.training.grpo.rewards import Reward
from methods.training.grpo.sampling import GrpoStep, Setting, sampled
from methods.training.grpo.work import LOG, read_log
from methods.training.loop.loop import LossLog, generator_for, progress

CHECKPOINT = "checkpoint.pt"
ROLLOUTS = "rollouts.jsonl"


class Collapse:
    """Whether training has run away: entropy too low or KL too high for ``patience`` steps in a row, or a
    gradient that is no number.
    """

    def __init__(self, options: GRPOOptions, log: Path) -> None:
        self.options, self.reasons = options, list[str]()
        for row in read_log(log):
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Take in the figures of one more step."""
        self.reasons.append(self._reason(row))

    def _reason(self, row: dict[str, Any]) -> str:
        options = self.options
        if not math.isfinite(row.get("norm", 0.0)):
            return "the gradient is not finite"
        if row.get("entropy", math.inf) < options.min_entropy:
            return f"entropy {row['entropy']:.4f} is below {options.min_entropy:g} nats (min_entropy)"
        if row.get("kl", 0.0) > options.max_kl:
            return f"KL to the reference {row['kl']:.3f} is above {options.max_kl:g} nats per token (max_kl)"
        return ""

    @property
    def message(self) -> str | None:
        """Why to stop, or None to go on."""
        last = self.reasons[-self.options.patience :]
        if len(last) < self.options.patience or not all(last):
            return None
        return (
            f"stopped: {last[-1]} for {len(last)} steps; what is written are the last checkpoint's "
            "weights. Lower --lr or raise --beta"
        )


def credit(setting: Setting, step: GrpoStep) -> Tensor:
    """The rewards that the update sees."""
    if not setting.options.shuffle_rewards:
        return step.values
    random, size = generator_for(setting.options.seed, step.index, stream=7), setting.options.group
    order = np.concatenate([start + random.permutation(size) for start in range(0, len(step.values), size)])
    return step.values[torch.from_numpy(order)]


def learn(setting: Setting, step: GrpoStep) -> dict[str, float]:
    """Score the informative answers, update, and return the figures of the update (none if no group was
    informative).
    """
    options, values = setting.options, credit(setting, step)
    keep = informative(values, step.groups) & step.data.batch["scored"].any(-1)
    scored = step.data.batch["scored"] & keep[:, None]
    kept = {step.groups[index] for index in keep.nonzero().flatten().tolist()}
    figures: dict[str, float] = {"groups_without_variance": len(set(step.groups)) - len(kept)}
    if not scored.any():
        return figures
    names = ("prompts", "prompt_length", "outputs", "steps", "seed")
    batch = {name: step.data.batch[name] for name in names} | {"scored": scored}
    old = setting.group.log_probs(DataProto.from_dict(batch, meta_info={"which": "old"}))
    batch |= {"old": old.batch["old"], "advantages": advantages(values, step.groups, options.baseline)}
    if options.beta:
        batch["ref"] = setting.group.log_probs(DataProto.from_dict(batch, meta_info={"which": "ref"})).batch[
            "ref"
        ]
    answers = int(scored.any(-1).sum())
    tokens = answers if setting.level == "sequence" else int(scored.sum())
    meta = {"tokens": tokens, "answers": answers, "lr": options.rate(step.index)}
    found = setting.group.update(DataProto.from_dict(batch, meta_info=meta)).batch
    count = found["count"].sum(0)
    last = {name: float(found[name].sum(0)[-1] / count[-1]) for name in ("clipped", "ratio", "kl")}
    entropy = old.batch["entropy"].sum() / scored.sum()
    return {
        **figures,
        **last,
        "entropy": float(entropy),
        "loss": float(found["loss"].sum(0).mean()),
        "norm": float(found["norm"].max()),
    }


def figures_of(step: GrpoStep, options: GRPOOptions) -> dict[str, Any]:
    """What the log says about the answers of a step: mean reward, its components, and how answers ended."""
    names = sorted({name for reward in step.rewards for name in reward.components})
    means = {
        f"reward/{name}": float(np.mean([reward.components.get(name, 0.0) for reward in step.rewards]))
        for name in names
    }
    solved = [reward.status == "passed" for reward in step.rewards]
    length = step.data.batch["scored"].sum(-1).float()
    return {
        "reward": float(step.values.mean()),
        "reward_sd": float(step.values.std()),
        **means,
        "solved": float(np.mean(solved)),
        "length": float(length.mean()),
        "truncated": float((length == step.data.batch["scored"].shape[1]).float().mean()),
        "nfe": float(step.data.batch["nfe"].mean()),
        "statuses": dict(
            Counter(
                _status(reward, status) for reward, status in zip(step.rewards, _decoded(step), strict=True)
            )
        ),
        "shuffled": options.shuffle_rewards,
    }


def _decoded(step: GrpoStep) -> list[str]:
    return list(step.data.non_tensor_batch["status"])


def _status(reward: Reward, decoded: str) -> str:
    return reward.status if decoded == "ok" else f"decode_{decoded}"


def _write_rollouts(log: LossLog, step: GrpoStep) -> None:
    texts = step.data.non_tensor_batch["text"]
    for index, (task, reward, status) in enumerate(
        zip(step.tasks, step.rewards, _decoded(step), strict=True)
    ):
        shown = {"uid": task.uid, "text": texts[index], "reward": round(float(step.values[index]), 4)}
        log.write(step=step.index, **shown, components=reward.components, status=_status(reward, status))


def told(step: int, row: dict[str, Any]) -> str:
    """One line for people."""
    names = ("reward", "solved", "entropy", "kl", "clipped", "nfe", "rollout_s", "update_s")
    return f"grpo: step {step + 1}: " + ", ".join(f"{name} {row[name]:.4g}" for name in names if name in row)


@dataclass(frozen=True)
class Finish:
    """``stopped`` says why training ended early (None: it did not); ``seconds`` it took, interrupted runs
    included.
    """

    stopped: str | None
    seconds: float


def fit(setting: Setting, track: Callable[[dict[str, Any], int], None]) -> Finish:
    """Train from the last checkpoint to ``options.steps``. A run that collapses ends with the weights of its
    last checkpoint.
    """
    options, group, work = setting.options, setting.group, setting.options.work.absolute()
    done, earlier = group.load(str(work / CHECKPOINT))[0]
    log, rollouts = LossLog(work / LOG, done), LossLog(work / ROLLOUTS, done)
    collapse, started = Collapse(options, work / LOG), time.perf_counter()
    with progress("grpo", options.steps, done) as report:
        for index in range(done, options.steps):
            begun = time.perf_counter()
            own, step = sampled(setting, index)
            middle = time.perf_counter()
            row = {**figures_of(own, options), **learn(setting, step)}
            if options.resample:
                row["extra_rollouts"] = len(step.tasks) - len(own.tasks)
            if options.sync_every and (index + 1) % options.sync_every == 0:
                group.sync_reference()
            row |= {"rollout_s": round(middle - begun, 3), "update_s": round(time.perf_counter() - middle, 3)}
            log.write(step=index, **row)
            _write_rollouts(rollouts, step)
            track(row, index)
            collapse.add(row)
            report(index + 1, None)
            if (index + 1) % max(1, options.steps // 20) == 0:
                print(told(index, row), flush=True)
            spent = earlier + time.perf_counter() - started
            if collapse.message:
                group.load(str(work / CHECKPOINT))
                return Finish(collapse.message, spent)
            if (index + 1) % options.save_every == 0 or index + 1 == options.steps:
                group.save(str(work / CHECKPOINT), index + 1, spent)
    return Finish(None, earlier + time.perf_counter() - started)
