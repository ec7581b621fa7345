"""From command-line wishes to frozen plans, run ids and comparability keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.decoding.registry import Method
from harness.decoding.settings import settings_of
from harness.engine.generator import Generator
from harness.engine.loader import Loaded
from harness.measuring.environment import device_name
from harness.model.catalog import location
from harness.model.checkpoint import configuration_hash, model_hash
from harness.model.load import resolve
from harness.model.tokenizer import vocabulary_hash
from harness.records.files import digest
from harness.records.schema import Plan
from harness.runs.suite import Rendering


def prompts_hash(prompts: Sequence[str]) -> str:
    """One hash over all rendered prompts, in order."""
    return digest(list(prompts))


def run_id(plan: Plan) -> str:
    """Method, suite and the plan's hash: stable across machines that make the same plan."""
    unsaid = (
        {"isolated"} if plan.isolated is None else set[str]()
    )  # as it was before there was a jail for decoders
    return f"{plan.method}-{plan.suite}-{digest(plan.model_dump(mode='json', exclude=unsaid))[:10]}"


def make_plan(
    loaded: Loaded,
    method: Method,
    generator: Generator,
    *,
    suite: str,
    prompts: Sequence[str],
    limit: int | None,
    canvas: int,
    blocks: Sequence[int],
    batch_size: int,
    repeats: int,
    rendering: Rendering,
    stops: Sequence[str] = (),
) -> Plan:
    """Freeze everything that decides the answers."""
    device = loaded.held.device
    provenance = (
        "model",
        "checkpoint",
        "weights_hash",
        "adapter",
        "adapter_hash",
        "merged",
        "tokenizer_hash",
        "config_hash",
        "devices",
    )
    return Plan(
        **{name: getattr(loaded, name) for name in provenance},
        method=method.name,
        method_source=method.source,
        isolated=method.isolated,
        settings=settings_of(generator.config),
        suite=suite,
        prompts_hash=prompts_hash(prompts),
        limit=limit,
        max_new_tokens=canvas,
        blocks=list(blocks),
        stop_rule=generator.stop_rule,
        chat_template=rendering.chat is not None,
        template=rendering.template,
        num_fewshot=rendering.num_fewshot,
        fewshot_seed=None if rendering.num_fewshot is None else rendering.fewshot_seed,
        batch_size=batch_size,
        repeats=repeats,
        device=str(device),
        device_name=device_name(device),
        dtype=loaded.held.precision,
        attention=loaded.held.attention,
        compiled=loaded.held.compiled,
        threads=torch.get_num_threads() if device.type == "cpu" else None,
        seed=generator.seed,
        stop_strings=list(stops) if generator.stop_rule == "harness" else [],
        family_source=loaded.family_source,
        overrides=loaded.overrides,
    )


def comparability(plan: Plan) -> dict[str, Any]:
    """What all rows of one table share. A companion (adapter, AR parent) counts as the model asked for."""
    told = planned_fields(plan)
    weights = {
        "weights_hash": model_hash(plan.model),
        "tokenizer": vocabulary_hash(resolve(location(plan.checkpoint))),
    }
    # An engine may serve a model whose layers are not built here, of which only the file can be told.
    config = configuration_hash(plan.model) if plan.engine is None else plan.config_hash
    return {**told, **weights, **({} if config is None else {"config": config})}


def planned_fields(plan: Plan) -> dict[str, Any]:
    """The part of a comparability that stands in the plan itself."""
    # Named only where they are not the suite's own, so that the key of a plain run does not depend on what
    # else could be chosen.
    unusual = {
        name: value
        for name in ("blocks", "num_fewshot", "fewshot_seed")
        if (value := getattr(plan, name)) not in (None, [])
    }
    unusual |= {
        name: value
        for name in ("stop_strings", "family_source", "overrides", "engine", "stream", "compiled", "devices")
        if (value := getattr(plan, name))
    }
    unusual |= {"template": plan.template} if plan.template != "default" else {}
    return {
        **unusual,
        "suite": plan.suite,
        "prompts_hash": plan.prompts_hash,
        "model": plan.model,
        "dtype": plan.dtype,
        "attention": plan.attention,
        "max_new_tokens": plan.max_new_tokens,
        "stop_rule": plan.stop_rule,
        "chat_template": plan.chat_template,
        "batch_size": plan.batch_size,
        "device": plan.device_name,
        "threads": plan.threads,
    }


def prompting(loaded: Loaded, rendering: Rendering) -> dict[str, Any]:
    """Whose tokenizer and chat template wrote a run's prompts."""
    return {
        "checkpoint": loaded.checkpoint,
        "tokenizer_hash": loaded.tokenizer_hash,
        "chat_template": None if rendering.chat is None else digest(loaded.tokenizer.chat_template),
        "fewshot_as_multiturn": None if rendering.chat is None else rendering.multiturn,
    }
