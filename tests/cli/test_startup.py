"""What a command that computes nothing does not import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from harness.cli.group import GROUP
from harness.decoding import registry
from harness.decoding.registry import load_method, method_names, method_summary
from harness.plugins import registered, source_of

HEAVY = {"torch", "transformers", "pandas", "matplotlib", "seaborn", "scipy", "PIL", "lm_eval", "datasets"}
"""Half a second each and more."""

COMMANDS = """
import contextlib, importlib, io, json, sys
from harness.cli import main

loaded = {}
for word in ("--version", "--help", "list"):
    sys.argv = ["bench", word]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    assert out.getvalue(), word
    loaded[word] = sorted(sys.modules)
for module in MODULES:
    importlib.import_module(module)
    loaded[module] = sorted(sys.modules)
print(json.dumps(loaded))
"""


def test_help_and_lists_import_nothing_heavy() -> None:
    # A command's --help is its module's import and no more; lm-eval's own help is printed by lm-eval.
    modules = [point.module for name, point in registered(GROUP).items() if name != "lm-eval"]
    program = COMMANDS.replace("MODULES", repr(modules))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert {"--version", "--help", "list", *modules} == set(loaded)
    assert {what: found for what, names in loaded.items() if (found := HEAVY & {*names})} == {}


def test_a_summary_is_read_from_source_as_the_object_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    summaries = {name: load_method(name).decoder.summary for name in method_names()}
    monkeypatch.setattr(registry, "load_method", lambda name: pytest.fail(f"{name} was imported"))
    assert {name: method_summary(name) for name in method_names()} == summaries


def test_a_method_that_no_source_tells_of_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "source_of", lambda _: ast.parse("METHOD = make()\nclass Other: pass"))
    assert method_summary("ar") == load_method("ar").decoder.summary
    assert source_of(EntryPoint("x", "no.such.module:METHOD", "group")).body == []
