"""What a row needs beyond agreeing with itself before it may be published: a clean commit, a decoder behind
glass, seals, and nothing that names the machine it came from.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePath
from typing import Any

from harness.decoding.registry import GROUP
from harness.plugins import registered
from harness.records.outside import brief
from harness.runs.recheck import NOT_RECOMPUTED, RUN, SAMPLES, Check, Difference, Stored, checked

OWN = "built-in"
_PATH = re.compile(r"(?<![\w.:/<~-])~?/(?=[\w.])[^\s'\"<>|,;)]*|(?<!\w)[A-Za-z]:\\[^\s'\"]*")
"""An absolute path of any system within a text; no address, no relative path and no division."""
_FREE = {"stop_strings", "template"}
AGAIN = "and run it again"


def publishable(stored: Stored, sealed: bool = True, host: str | None = None) -> list[Check]:
    """``sealed``: every line must have its seal; ``host``: a name that must not occur."""
    checks: dict[str, Callable[[], str]] = {
        "commit": partial(_commit, stored),
        "isolation": partial(_isolation, stored),
        "private": partial(_private, stored, host),
    }
    if sealed:
        checks["seals"] = partial(_seals, stored)
    return [checked(name, work) for name, work in checks.items()]


def _commit(stored: Stored) -> str:
    git = stored.run.environment.get("git")
    commit, dirty = (git.get("commit"), git.get("dirty")) if isinstance(git, dict) else (None, None)
    if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40,64}", commit):
        told = f"{RUN}: environment.git.commit is {brief(commit)}"
        raise Difference(f"{told}: run from a clone of the repository (pip install -e .) {AGAIN}")
    if dirty is not False:
        told = f"{RUN}: environment.git.dirty is {brief(dirty)}"
        raise Difference(f"{told}: commit your changes, or put them away, {AGAIN} with --fresh")
    return f"{commit[:12]}, without local changes"


def _isolation(stored: Stored) -> str:
    plan, audit = stored.run.plan, stored.run.audit
    if plan.family_source is not None:
        raise Difference(
            f"{RUN}: plan.family_source is {brief(plan.family_source)}: a family from a file or a package "
            "computes in the harness' process, where figures can be forged; run a model of a built-in family"
        )
    if plan.engine is not None:
        raise Difference(
            f"{RUN}: plan.engine is {brief(plan.engine)}: what an engine computes is not audited"
        )
    if plan.method_source == OWN and not plan.isolated:
        if plan.method not in registered(GROUP):
            raise Difference(f"{RUN}: plan.method {brief(plan.method)} is none of the project's own decoders")
        return "the project's own decoder"
    if plan.isolated is not True:
        who = f"{plan.method} ({plan.method_source})"
        raise Difference(
            f"{RUN}: plan.isolated is {brief(plan.isolated)} for {who}: run it without --no-isolate and with "
            "--fresh, from its file or package; figures of a decoder in the harness' process can be forged"
        )
    if stored.run.isolation is None:
        raise Difference(f"{RUN} says nothing of the jail that it was isolated in: run it again with --fresh")
    if audit is None or NOT_RECOMPUTED not in [check.name for check in audit.checks]:
        raise Difference(f"{RUN}: audit lacks {NOT_RECOMPUTED}: run it again with --fresh")
    return f"behind glass ({brief(stored.run.isolation.get('jail'))})"


def _seals(stored: Stored) -> str:
    bare = next((sample for sample in stored.samples if sample.seal is None), None)
    if bare is not None:
        where = f"{SAMPLES} document {bare.doc_id}, repeat {bare.repeat}"
        raise Difference(f"{where} has no seal, so it was not written by this version: run it again")
    return f"{len(stored.samples)} lines, each with its own"


def _private(stored: Stored, host: str | None) -> str:
    plan = stored.run.plan
    if host and host in f"{plan.model} {plan.method} {plan.suite} {plan.device_name}":
        host = None  # a machine called nano is not told by the model's name
    told = stored.run.model_dump(mode="json", exclude={"plan": _FREE})
    for name, text in _texts(told, RUN):
        _name_nothing(name, text, host)
    for sample in stored.samples:
        if sample.error:
            where = f"{SAMPLES} document {sample.doc_id}, repeat {sample.repeat}: error"
            _name_nothing(where, sample.error, host)
    return "no path of the machine" + (" and not its name" if host else "")


def _name_nothing(where: str, text: str, host: str | None) -> None:
    if found := _PATH.search(text):
        raise Difference(
            f"{where} holds the path {brief(found[0])}: name it relative to where you run from, or list the "
            f"model under a name (BENCH_MODELS), {AGAIN}"
        )
    if host and re.search(rf"(?<!\w){re.escape(host)}(?!\w)", text):
        raise Difference(f"{where} holds this machine's name: leave it out of what you name, {AGAIN}")


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every text of a JSON value, keys included, with its place."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{name}: a key", str(key)
            yield from _texts(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, name)


def without_paths(command: str) -> str:
    """A command line whose absolute paths are shortened to their last part."""
    try:
        words = shlex.split(command)
    except ValueError:
        return _PATH.sub(lambda found: PurePath(found[0]).name, command)
    return shlex.join([_PATH.sub(lambda found: PurePath(found[0]).name or "PATH", word) for word in words])
