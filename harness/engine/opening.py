"""One way to open what answers a prompt: a method, a model with what the method needs, and settings from four
places.

opened = open_engine("d2f:block_size=16", "nano")
generations = opened.generator.run([Request("...", 48)], batch_size=1)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.decoding.registry import Method
from harness.decoding.settings import SettingError, parse_pairs, setting_names
from harness.engine.generator import Generator
from harness.engine.isolation.finding import find_method
from harness.engine.loader import Loaded, load
from harness.engine.tuned import tuned_settings
from harness.model.catalog import lookup
from harness.model.recognise import open_family
from harness.model.spec import CheckpointError
from harness.records.schema import StopRule


@dataclass(frozen=True)
class Wish:
    """One method as asked for: ``vanilla`` or ``vanilla:tokens_per_step=4,alg=entropy``."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Wish:
        """A method name or file, optionally with settings behind a colon."""
        name, _, tail = text.partition(":")
        return cls(name, dict(parse_pairs(tail.split(","), "--method")) if tail else {})


def settings_for(
    wish: Wish,
    method: Method,
    model: str,
    shared: Mapping[str, str],
    known: set[str],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Model defaults, then ``defaults`` (a preset's), then ``--set``, then the method's own;
    ``--set name.key=value`` reaches one method.

    ``preset``, where it is no setting of the method's own, names tuned settings (harness.engine.tuned), which
    yield to those given beside. ``known``: every setting name of any chosen method. SettingError for a shared
    key that no method has.
    """
    mine = setting_names(method.decoder.Config)
    own = dict(wish.settings)
    tuned: dict[str, Any] = {}
    if "preset" not in mine:
        name = own.pop("preset", shared.get(f"{method.name}.preset"))
        shared = {key: value for key, value in shared.items() if key != f"{method.name}.preset"}
        tuned = tuned_settings(method.name, str(name)) if name is not None else {}
    merged: dict[str, Any] = {**lookup(model).settings.get(method.name, {}), **(defaults or {}), **tuned}
    for key, value in shared.items():
        target, _, bare = key.rpartition(".")
        if target and target != method.name:
            continue
        if target or bare in mine:
            merged[bare] = value
        elif bare not in known:
            raise SettingError(
                f"--set {bare}: no chosen method has this setting; {method.name} has "
                f"{', '.join(sorted(mine))}"
            )
    return {**merged, **own}


def check_targets(shared: Mapping[str, Any], chosen: Collection[str]) -> None:
    """SettingError for a ``--set name.key=value`` whose method is not among the ``chosen`` ones: it would
    change nothing.
    """
    for key in shared:
        target = key.rpartition(".")[0]
        if target and target not in chosen:
            raise SettingError(
                f"--set {key}: {target} is not chosen (chosen: {', '.join(sorted(chosen))}); add --method "
                f"{target}"
            )


@dataclass(frozen=True)
class Weights:
    """Which weights, how they are held and computed with; see ``load``. ``family``: a family's file, known in
    this process from then on; ``device_map``: auto spreads the blocks over all cards.
    """

    model: str = "nano"
    adapter: str | None = None
    merge: bool = True
    dtype: str = "auto"
    device: str | None = None
    family: str | None = None
    attention: str = "auto"
    compiled: bool = False
    device_map: str | None = None

    def __post_init__(self) -> None:
        if self.family is None:
            return
        if not self.family.endswith(".py"):
            text = "a known one is chosen by config.json, or by family: in a list of models (BENCH_MODELS)"
            raise CheckpointError(f"--family {self.family} is no Python file: {text}")
        open_family(self.family)

    def load(self, method: Method, lazy: bool = False) -> Loaded:
        needs = method.decoder.requires
        return load(
            self.model,
            needs,
            adapter=self.adapter,
            merge=self.merge,
            dtype=self.dtype,
            device=self.device,
            lazy=lazy,
            attention=self.attention,
            compiled=self.compiled,
            device_map=self.device_map,
        )


@dataclass(frozen=True)
class Opened:
    """A method with its generator, ready to answer."""

    method: Method
    generator: Generator

    @property
    def loaded(self) -> Loaded:
        return self.generator.loaded


def open_engine(
    method: str | Wish | Method,
    weights: Weights | str = "nano",
    settings: Mapping[str, Any] | None = None,
    *,
    known: Sequence[str] = (),
    chosen: Sequence[str] = (),
    seed: int = 0,
    stop_rule: StopRule = "harness",
    defaults: Mapping[str, Any] | None = None,
    isolate: bool | None = None,
    lazy: bool = False,
) -> Opened:
    """Open one method on one model.

    ``settings`` are shared ones (``--set``); ``known``: setting names of other chosen methods, which may be
    shared too; ``chosen``: the names of all chosen methods, which settings may be addressed to; ``defaults``:
    settings that every other one replaces; ``isolate``: see ``find_method``; ``lazy``: load no weights yet.
    Raises MethodError, CheckpointError or SettingError, naming the flag to change.
    """
    wish = (
        Wish.parse(method)
        if isinstance(method, str)
        else method
        if isinstance(method, Wish)
        else Wish(method.name)
    )
    entry = method if isinstance(method, Method) else find_method(wish.method, isolate)
    what = Weights(weights) if isinstance(weights, str) else weights
    check_targets(settings or {}, {entry.name, *chosen})
    mine = settings_for(wish, entry, what.model, settings or {}, set(known), defaults)
    return Opened(
        entry, Generator(what.load(entry, lazy), entry.decoder, mine, seed=seed, stop_rule=stop_rule)
    )
