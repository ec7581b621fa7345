"""Settings of a student's training, and the presets they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.decoding.settings import build_config
from harness.errors import UserError
from harness.records.outside import brief, parse_yaml, read_text
from methods.training.loop.loop import LoopOptions
from methods.training.loop.optim import Shape
from methods.training.loop.rounds import RoundSchedule

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class TrainingError(UserError, ValueError):
    """Options or data that no student can be trained with."""


@dataclass(frozen=True)
class StudentOptions:
    """Settings every student has.

    Data: ``data`` (a file), else ``answers`` > 0 answers of the teacher (decoder ``teacher`` with
    ``teacher_settings``, to ``prompts`` or generated problems), else ``pool_items`` of the generated corpus;
    ``keep`` drops answers known to be wrong. ``blocks``: rows of reasoning and answer (block_rows) instead of
    all these. Size: ``tokens`` of a batch, ``accumulate`` batches per optimiser step, ``canvas`` new tokens
    of the longest row, which a share ``full_canvas`` of the batches has. ``rank`` 0 trains all weights, with
    ``muon_lr`` > 0 the matrices of the blocks by Muon at that rate and the rest by AdamW at ``lr``.
    ``warmup`` steps, then a constant rate that falls over the share ``fall`` (``shape``). ``decay`` of the
    running average that is delivered; 0 delivers the raw student. ``first``, ``every``, ``rounds``: see
    RoundSchedule. ``gradient_checkpointing`` keeps of every block its input alone and computes it again in
    the backward pass: the same weights, a third more time. ``shard`` divides all weights, their gradients and
    moments among the ranks (FSDP2). ``fit`` makes the batches of a step as large as the estimate lets the
    device hold, and as few.
    """

    output: Path
    work: Path
    model: str = "nano"
    data: Path | None = None
    prompts: Path | None = None
    answers: int = 0
    teacher: str = "vanilla"
    teacher_settings: dict[str, Any] = field(default_factory=dict)
    keep: Literal["correct", "all"] = "correct"
    pool_items: int = 40_000
    blocks: bool = False
    seed: int = 0
    threads: int = 1
    device: str | None = None
    precision: Literal["bf16", "no"] = "bf16"
    tokens: int = 2048
    accumulate: int = 1
    canvas: int = 48
    full_canvas: float = 0.3
    rank: int = 32
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = LINEAR
    lr: float = 2e-4
    muon_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: int = 50
    fall: float = 0.0
    shape: Shape = "linear"
    clip: float = 1.0
    save_every: int = 100
    decay: float = 0.999
    first: float = 1 / 512
    every: int = 500
    rounds: int = 1
    validate_every: int = 0
    validation_items: int = 0
    wandb: bool = False
    gradient_checkpointing: bool = False
    shard: bool = False
    fit: bool = False

    def __post_init__(self) -> None:
        if self.muon_lr and self.rank:
            raise TrainingError(
                "muon_lr trains whole matrices: --set rank=0, or --set muon_lr=0 for an adapter"
            )
        if self.shard and self.rank:
            raise TrainingError(
                "shard divides weights that train, and an adapter's are few: --set rank=0, or no shard"
            )

    @property
    def schedule(self) -> RoundSchedule:
        return RoundSchedule(self.first, self.every, self.rounds)

    @property
    def loop(self) -> LoopOptions:
        steps = self.schedule.steps
        return LoopOptions(
            steps,
            self.warmup,
            self.fall,
            self.clip,
            self.save_every,
            accumulate=self.accumulate,
            shape=self.shape,
        )

    def dt(self, batch: int) -> float:
        """Time step of the round that a batch belongs to."""
        return self.schedule.dt(batch // self.accumulate)


Options = TypeVar("Options")


def preset(kind: type[Options], method: str, name: str, given: Mapping[str, Any]) -> Options:
    """Options of ``method`` from the preset ``name`` (a shipped one, or a YAML file), overridden by what is
    given and not None.

    A key ``steps`` shortens (or lengthens) every round so that all of them take so many steps together.
    Raises TrainingError for an unknown preset or section, SettingError for an unknown setting or value.
    """
    shipped = files("methods.training") / "presets" / f"{name}.yaml"
    source = Path(name) if name.endswith(".yaml") else shipped
    if not source.is_file():
        raise TrainingError(
            f"preset {name!r} is neither nano, dream7b, smoke nor a YAML file: change --preset"
        )
    table = parse_yaml(read_text(Path(str(source)), TrainingError), name, TrainingError, "change --preset")
    if not isinstance(table, dict) or not all(
        isinstance(part, dict) and all(isinstance(key, str) for key in part) for part in table.values()
    ):
        raise TrainingError(f"preset {name!r} is no table of sections with settings each: change --preset")
    if method not in table:
        raise TrainingError(f"preset {name!r} has no section {method!r}; it has {', '.join(map(str, table))}")
    values: dict[str, Any] = {
        **table[method],
        **{key: value for key, value in given.items() if value is not None},
    }
    if (steps := values.pop("steps", None)) is not None:
        values["every"] = max(1, _count("steps", steps) // _count("rounds", values.get("rounds", 1)))
    return build_config(method, kind, values)


def _count(name: str, value: Any) -> int:
    """A number of steps or rounds as a file or a flag gives it."""
    if isinstance(value, bool) or not str(value)[:20].isdecimal() or int(value) < 1:
        raise TrainingError(
            f"{name} is {brief(value)}, and a whole number from 1 is wanted: change --set {name}"
        )
    return int(value)


def plain(options: Any) -> dict[str, Any]:
    """Options as JSON values."""
    rows = ((entry.name, getattr(options, entry.name)) for entry in fields(options))
    return {name: str(value) if isinstance(value, Path) else value for name, value in rows}
