"""The files in a GRPO run's work folder, which may come from anywhere: card, log and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from harness.errors import UserError
from harness.records.files import whole_lines
from harness.records.outside import parse_json, read_text, reason

LOG = "log.jsonl"
ADVICE = "name work folders of finished runs of bench train grpo"
OWN = "take another --work folder, or delete this file to start again"


class SummaryError(UserError, ValueError):
    """A folder that is no finished run, or a page without the place for the table."""


class WorkError(SummaryError):
    """A file in a work folder that is not what a run writes there."""


class Told(BaseModel):
    suite: str
    shuffle_rewards: bool


class Card(BaseModel):
    """``card.json`` of a finished run; ``seconds`` of training."""

    settings: Told
    seconds: FiniteFloat


class Step(BaseModel, extra="allow"):
    """A line of ``log.jsonl``: figures of a step; one that diverged may not be finite."""

    step: int
    reward: float | None = None
    solved: float | None = None
    entropy: float | None = None
    kl: float | None = None
    norm: float | None = None


class Finished(Step):
    """The same where a table is made of it."""

    solved: FiniteFloat  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


class Side(BaseModel):
    nfe: FiniteFloat


class Sides(BaseModel):
    before: Side
    after: Side


class Evaluation(BaseModel):
    """``evaluation.json``: pass@1 on held-out problems before and after."""

    before: FiniteFloat
    after: FiniteFloat
    difference: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    p_value: FiniteFloat
    scores: Sides = Field(description="forwards per answer")


_Kind = TypeVar("_Kind", bound=BaseModel)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run, finished or not, noted in its folder."""
    found = _there(folder / "card.json", OWN).get("settings")
    if not isinstance(found, dict):
        raise WorkError(f"{folder / 'card.json'} has no settings: {OWN}")
    return found


def read_card(folder: Path) -> Card:
    path = folder / "card.json"
    return _as(Card, _there(path), path, ADVICE)


def read_evaluation(folder: Path) -> Evaluation | None:
    """None for a run that was not evaluated."""
    path = folder / "evaluation.json"
    return _as(Evaluation, _there(path), path, ADVICE) if path.exists() else None


def read_log(path: Path, kind: type[Step] = Step, advice: str = OWN) -> list[dict[str, Any]]:
    """Rows of a log, none if there is no log yet; a last line that was cut short is none."""
    rows = []
    for number, line in whole_lines(path):
        where = f"{path} line {number}"
        value = parse_json(line, where, WorkError, advice=advice, finite=False)
        rows.append(_as(kind, value, where, advice).model_dump(exclude_none=True))
    return rows


def read_finished(folder: Path) -> list[dict[str, Any]]:
    """Rows of the log of a run that took at least one step."""
    rows = read_log(folder / LOG, Finished, ADVICE)
    if not rows:
        raise WorkError(f"{folder / LOG} holds no step: {ADVICE}")
    return rows


def _there(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    # Earlier cards have Infinity for a bound that is not set (max_kl).
    return parse_json(read_text(path, WorkError, advice), path, WorkError, advice=advice, finite=False)


def _as(kind: type[_Kind], value: dict[str, Any], where: object, advice: str) -> _Kind:
    try:
        return kind.model_validate(value)
    except ValidationError as fault:
        raise WorkError(f"{where} is not what a run writes ({reason(fault)}): {advice}") from None
