"""Settings of a GRPO run and the presets they come from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from harness.decoding.registry import load_method
from harness.errors import UserError
from methods.base import SamplingConfig
from methods.training.grpo.estimators import Estimator, make_estimator
from methods.training.grpo.rewards import Form
from methods.training.grpo.tasks import NANO

PRESETS = files("methods.training") / "presets" / "grpo.yaml"


AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")


class OptionsError(UserError, ValueError):
    """Settings that are unknown or contradict each other."""


@dataclass(frozen=True)
class GRPOOptions:
    """One run.

    Rollouts: ``prompts`` x ``group`` answers per step by decoder ``method`` with ``settings`` on ``canvas``
    new tokens, ``batch`` rows at a time. Loss: ``estimator`` (``merge``: steps taken as one by trace;
    ``pairs``: mask pairs of espo), ``inner`` optimiser steps per batch, clip ``epsilon``, KL weight ``beta``
    to a reference renewed every ``sync_every`` steps (0: never), ``baseline`` of the advantages,
    ``loss_agg``: see objective.Objective. ``resample``: rounds of further problems in place of groups without
    variance, at most. Optimiser: AdamW on all weights (``rank`` 0) or on a LoRA adapter; ``lr`` constant
    or falling as a cosine to ``floor`` times itself; ``rows`` view rows per forward. Rewards: ``weights``
    by component. The run stops when entropy (nats) falls below ``min_entropy`` or KL (nats per token)
    rises above ``max_kl`` for ``patience`` steps in a row. Afterwards ``evaluate`` documents of suite
    ``held_out`` (default: the nano suite trained on) are answered before and after. ``shape``:
    config.json of the model that a preset is meant for, for the memory estimate alone.
    """

    model: str
    suite: str
    output: Path
    work: Path
    seed: int = 0
    steps: int = 100
    prompts: int = 8
    group: int = 8
    method: str = "vanilla"
    settings: dict[str, Any] = field(default_factory=dict)
    canvas: int | None = None
    batch: int = 64
    estimator: str = "coupled"
    merge: int = 1
    pairs: int = 1
    inner: int = 1
    epsilon: float = 0.5
    beta: float = 0.01
    sync_every: int = 0
    baseline: Literal["leave_one_out", "mean", "standardised"] = "leave_one_out"
    loss_agg: str = "token-mean"
    resample: int = 0
    rank: int = 0
    alpha: int = 0
    lr: float = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"
    floor: float = 0.1
    warmup: int = 0
    weight_decay: float = 0.0
    beta2: float = 0.99
    clip: float = 0.2
    precision: Literal["float32", "bfloat16"] = "float32"
    rows: int = 64
    weights: dict[str, float] = field(default_factory=dict)
    form: Form = "completion"
    reward: Path | None = None
    shuffle_rewards: bool = False
    min_entropy: float = 0.0
    max_kl: float = math.inf
    patience: int = 3
    save_every: int = 10
    evaluate: int = 0
    held_out: str | None = None
    workers: int = 1
    ray: bool = True
    device: str = "cpu"
    threads: int = 1
    loggers: tuple[str, ...] = ("file",)
    data_dir: str | None = None
    shape: dict[str, Any] | None = None
    allow_unsafe: bool = False

    def __post_init__(self) -> None:
        if self.group < 2:
            raise OptionsError("--group needs at least 2 answers per prompt: advantages compare them")
        if self.prompts * self.group % self.workers:
            raise OptionsError(
                f"--prompts x --group = {self.prompts * self.group} answers do not divide among --workers "
                f"{self.workers}"
            )
        if self.workers > 1 and not self.ray:
            raise OptionsError("--no-ray runs one worker: leave out --workers, or let Ray start them")
        if self.loss_agg not in AGGREGATIONS:
            raise OptionsError(f"--loss-agg {self.loss_agg} is unknown; use {', '.join(AGGREGATIONS)}")
        if self.resample < 0:
            raise OptionsError("--resample is a number of rounds, 0 for none")
        if self.form not in get_args(Form):
            raise OptionsError(f"--form {self.form} is unknown; use {' or '.join(get_args(Form))}")
        if self.evaluate and not self.held_out and self.suite not in NANO:
            raise OptionsError(
                "--evaluate needs --held-out SUITE where the training problems come from a file"
            )
        self.make_estimator()

    def make_estimator(self) -> Estimator:
        return make_estimator(self.estimator, self.merge, self.pairs)

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based)."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant":
            return self.lr * rise
        fall = 0.5 * (1 + math.cos(math.pi * step / max(1, self.steps)))
        return self.lr * rise * (self.floor + (1 - self.floor) * fall)

    def plain(self) -> dict[str, Any]:
        """Settings as JSON values, without the folders of this machine; null for a bound that is not set."""
        shown = {
            key: value for key, value in asdict(self).items() if key not in ("output", "work", "data_dir")
        }
        return {key: str(value) if isinstance(value, Path) else finite(value) for key, value in shown.items()}


def finite(value: Any) -> Any:
    """The value, None for an infinite number, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def presets() -> dict[str, dict[str, Any]]:
    """All shipped presets by name."""
    return yaml.safe_load(PRESETS.read_text())


def load_options(preset: str, suite: str, **given: Any) -> GRPOOptions:
    """Settings of a preset, overridden by what is given and not None; ``settings`` and ``weights`` are merged
    key by key.

    A preset's section ``suites`` holds what differs per suite. A ``method`` other than the preset's keeps of
    its decoder settings only how tokens are sampled. Raises OptionsError for an unknown preset or setting.
    """
    table = presets()
    if preset not in table:
        raise OptionsError(f"--preset {preset} is unknown; use {', '.join(table)}")
    values = dict(table[preset])
    values = _merged(values, values.pop("suites", {}).get(suite, {}))
    method = given.get("method")
    if method not in (None, values["method"]):
        sampling = {entry.name for entry in fields(SamplingConfig)} & {
            entry.name for entry in fields(load_method(method).decoder.Config)
        }
        values["settings"] = {key: value for key, value in values["settings"].items() if key in sampling}
    values = _merged(values, given)
    known = {entry.name for entry in fields(GRPOOptions)}
    if unknown := sorted(set(values) - known):
        raise OptionsError(
            f"preset {preset}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}"
        )
    return GRPOOptions(suite=suite, **values)


def _merged(values: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in layer.items():
        if value is not None:
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged
