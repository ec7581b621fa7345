"""Few-shot examples of the stock tasks, read from the installed lm-eval package so that they cannot drift
from it.

`lm_eval.tasks.mbpp.utils` downloads a metric when it is imported, so its examples are read as literals from
its source text.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def _tasks_folder() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("lm-eval is not installed")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def mbpp_shots() -> list[dict[str, Any]]:
    """MBPP's problems 2, 3 and 4, as the stock task shows them."""
    tree = ast.parse((_tasks_folder() / "mbpp" / "utils.py").read_text(encoding="utf-8"))
    function = next(
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "list_fewshot_samples"
    )
    answer = next(node for node in function.body if isinstance(node, ast.Return))
    return ast.literal_eval(answer.value) if answer.value else []


def gsm8k_cot_shots() -> list[dict[str, Any]]:
    """The eight worked examples of Wei et al. 2022."""
    settings = yaml.safe_load((_tasks_folder() / "gsm8k" / "gsm8k-cot.yaml").read_text(encoding="utf-8"))
    return settings["fewshot_config"]["samples"]


def gsm8k_ra_shots() -> list[dict[str, Any]]:
    """The same, with the reasoning and the answer marked."""
    mark = " The answer is"
    return [{**shot, "target": shot["target"].replace(mark, "\n[A]" + mark)} for shot in gsm8k_cot_shots()]
