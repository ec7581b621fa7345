"""The cell of an engine: clocked and graded like any other, with nothing said of what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from harness.engine.served.engines import Engine
from harness.measuring.served import audit_served
from harness.records.schema import NOT_MEASURED, Audit, AuditCheck, Plan, Sample
from harness.runs.cell import Cell


class ServedCell(Cell):
    """One engine on one suite; engine and version are in the plan and the comparability key."""

    weights_seen: ClassVar[bool] = False

    def told(self, plan: Plan) -> Plan:
        engine = cast("Engine", self.method.decoder)
        name = f"{engine.name} {engine.version}"
        return plan.model_copy(update={"engine": name, "attention": "the engine's", "threads": None})

    def _of_weights(self) -> dict[str, Any]:
        held = self.generator.loaded.held
        return {"load_s": held.load_s, "weights_bytes": held.size}

    def roof_share(self, samples: Sequence[Sample]) -> float | None:
        return None

    def audit(self, samples: Sequence[Sample], share: float | None, more: Sequence[AuditCheck]) -> Audit:
        return audit_served(samples)


def unmeasured(cell: Cell) -> str | None:
    """What an engine's run does not say, and why; None for any other run."""
    audit = cell.folder.run.audit
    if cell.folder.run.plan.engine is None or audit is None:
        return None
    who = f"{cell.folder.run.plan.engine} on {cell.suite.name}"
    return f"{who}: NFE, TPF, work and these checks are {NOT_MEASURED}: {', '.join(audit.not_made)}"
