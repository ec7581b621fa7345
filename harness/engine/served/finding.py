"""Engines by name."""

from __future__ import annotations

from harness.engine.served.engines import Engine, EngineError
from harness.engine.served.lmdeploy import LMDeploy
from harness.engine.served.sglang import SGLang
from harness.plugins import did_you_mean

ENGINES: tuple[Engine, ...] = (LMDeploy(), SGLang())


def find_engine(name: str) -> Engine:
    """EngineError for an unknown name."""
    known = {engine.name: engine for engine in ENGINES}
    if name not in known:
        hint = did_you_mean(name, list(known))
        raise EngineError(f"unknown engine {name!r}: {hint}--engine takes {', '.join(known)}")
    return known[name]
