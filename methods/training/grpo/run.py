"""One GRPO run from settings to delivered policy."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from harness.decoding.registry import load_method
from harness.decoding.settings import build_config
from harness.model.catalog import location, lookup
from harness.model.checkpoint import adds_bos, model_hash, spec_of
from harness.model.device import pick_device
from harness.model.load import resolve
from harness.model.recognise import read_spec
from harness.model.text import encode
from harness.model.tokenizer import load_tokenizer
from methods.training.grpo.evaluation import evaluate, write
from methods.training.grpo.memory import report
from methods.training.grpo.options import GRPOOptions, OptionsError, finite
from methods.training.grpo.reward_client import RewardOptions, RewardProcess
from methods.training.grpo.tasks import TaskSource, load_tasks
from methods.training.grpo.work import read_settings

NEEDS_VERL = "reinforcement learning needs verl: pip install 'dllm-bench[train]' -c constraints.txt"
DEFAULT_CANVAS = 256
# Settings that a continued run may have otherwise: they change no result, or only how long it takes to come.
FREE = {"save_every", "loggers", "evaluate", "held_out", "threads", "workers", "ray", "rows", "batch"}


def require_verl() -> None:
    """OptionsError unless verl and Ray can be imported."""
    # On a machine without accelerator verl warns that it has found none, in every process.
    os.environ.setdefault("VERL_LOGGING_LEVEL", "ERROR")
    try:
        import ray  # noqa: F401  # pyright: ignore[reportMissingImports]
        import verl  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OptionsError(f"{NEEDS_VERL} ({error})") from None


def complete(options: GRPOOptions) -> GRPOOptions:
    """The settings with what model and method add: the model's own decoder settings, canvas and device."""
    known = lookup(options.model)
    settings = {**known.settings.get(options.method, {}), **options.settings}
    build_config(options.method, load_method(options.method).decoder.Config, settings)
    canvas = options.canvas or known.canvas or DEFAULT_CANVAS
    return replace(options, settings=settings, canvas=canvas, device=str(pick_device(options.device)))


def worker_options(options: GRPOOptions, folder: Path) -> Any:
    """What each worker is started with."""
    from methods.training.grpo.objective import Objective
    from methods.training.grpo.policy import PolicyOptions
    from methods.training.grpo.rollout import RolloutOptions
    from methods.training.grpo.worker import WorkerOptions

    assert options.canvas is not None
    snapshot = bool(options.beta) and (not options.rank or options.sync_every > 0)
    return WorkerOptions(
        policy=PolicyOptions(
            folder, options.rank, options.alpha, options.precision, snapshot, spec=spec_of(options.model)
        ),
        rollout=RolloutOptions(
            folder, options.method, options.settings, options.canvas, options.batch, options.seed
        ),
        estimator=options.make_estimator(),
        objective=Objective(options.epsilon, options.beta, options.group, options.loss_agg),
        inner=options.inner,
        rows=options.rows,
        lr=options.lr,
        weight_decay=options.weight_decay,
        beta2=options.beta2,
        clip=options.clip,
        device=options.device,
        threads=options.threads,
    )


def check_folder(options: GRPOOptions) -> None:
    """OptionsError if the work folder belongs to a run with other settings; else note these there."""
    path, own = options.work / "card.json", options.plain()
    free = FREE | ({"steps"} if options.schedule == "constant" else set())
    if path.exists():
        before, settings = read_settings(options.work), json.loads(json.dumps(own))
        # A run from before a setting was there had its default.
        known = {entry.name: entry.default for entry in fields(GRPOOptions)} | before
        earlier = {name: finite(value) for name, value in known.items()}
        changed = [name for name in settings if name not in free and earlier.get(name) != settings[name]]
        if changed:
            name = changed[0]
            text = f"--work {options.work} holds a run with {name} {before.get(name)}, not {own[name]}"
            raise OptionsError(f"{text}: take another folder, or delete this one to start again")
    write(path, {"settings": own})


def train(options: GRPOOptions) -> str | None:
    """Train (or continue), export, evaluate and draw; returns why training stopped early, None if it did
    not.
    """
    require_verl()
    from methods.training.grpo.picture import draw

    options = complete(options)
    folder = resolve(location(options.model)).absolute()
    print("\n".join(report(read_spec(folder), options)), flush=True)
    tasks = load_tasks(options.suite, options.seed, options.data_dir)
    check_folder(options)
    origin = {"method": "grpo", "model": options.model, "model_hash": model_hash(options.model)}
    facts = {**origin, "settings": options.plain(), **_learn(options, folder, tasks)}
    write(options.work / "card.json", facts)
    write(options.output / "card.json", facts)
    draw([options.work], options.work / "rewards.png")
    if options.evaluate:
        print(f"held-out {evaluate(options)}", flush=True)
    return facts["stopped"]


def _learn(options: GRPOOptions, folder: Path, tasks: TaskSource) -> dict[str, Any]:
    """Start workers and reward process, run the loop, export; what the card says about it (seconds,
    bytes).
    """
    from methods.training.grpo.fit import Setting, fit
    from methods.training.grpo.launch import workers
    from methods.training.grpo.tracking import tracking

    tokenizer, bos, started = load_tokenizer(folder), adds_bos(options.model, folder), time.perf_counter()
    rewarder = RewardProcess(rewards_of(options, tasks.code))
    with workers(worker_options(options, folder), options.workers, options.ray) as group, rewarder as rewards:
        trained, up = group.init()[0]["trained"], time.perf_counter() - started
        print(
            f"{options.workers} worker(s) up in {up:.1f} s, {trained / 1e6:.2f} M trained weights", flush=True
        )
        setting = Setting(
            options,
            group,
            tasks,
            rewards,
            lambda text: encode(tokenizer, text, bos),
            options.make_estimator().level,
        )
        with tracking(options) as track:
            outcome = fit(setting, track)
        group.export(str(options.output.absolute()))
        peaks = group.memory()
    seconds = {"seconds": round(outcome.seconds, 1), "start_seconds": round(up, 1)}
    return {
        **seconds,
        "stopped": outcome.stopped,
        "reward_processes": rewards.starts,
        "peak_memory_bytes": peaks,
    }


def rewards_of(options: GRPOOptions, code: bool) -> RewardOptions:
    """How answers are graded: programs need the jail, final answers do not."""
    return RewardOptions(
        form=options.form,
        code=code,
        workers=options.threads,
        file=options.reward,
        allow_unsafe=options.allow_unsafe,
    )


def dry_run(options: GRPOOptions) -> None:
    """One step with two problems in a temporary folder: shows that recipe, checkpoint and machine go
    together. Without verl and Ray the plan alone: recipe, memory and problems.
    """
    try:
        require_verl()
    except OptionsError as error:
        options = complete(options)
        print("\n".join(report(read_spec(resolve(location(options.model))), options)))
        load_tasks(options.suite, options.seed, options.data_dir)
        print(f"dry run: recipe, checkpoint and problems go together; no step was taken: {error}")
        return
    with tempfile.TemporaryDirectory() as folder:
        place = {"output": Path(folder) / "policy", "work": Path(folder) / "work"}
        train(replace(options, prompts=2, steps=1, workers=1, ray=False, evaluate=0, **place))
    print(
        "dry run: one step of rollouts, rewards, update, checkpoint and export went through; nothing was kept"
    )
