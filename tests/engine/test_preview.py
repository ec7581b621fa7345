"""What is said before a hub model is fetched, with a stand-in for the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import psutil
import pytest

from harness.cli import main
from harness.engine import preview as module
from harness.engine.preview import lacks, on_hub, preview
from harness.measuring.roofline import Hardware
from harness.model.recognise import read_spec
from harness.model.spec import CheckpointError
from tests.conftest import GOLDEN

GB = 10**9


class Hub:
    """Repositories by name: the golden folder with their configuration, and the size of their weights."""

    def __init__(self, tmp_path: Path, **repositories: tuple[str, int]) -> None:
        self.root, self.repositories = (
            tmp_path,
            {name.replace("__", "/"): told for name, told in repositories.items()},
        )
        self.fetched: list[list[str]] = []

    def model_info(self, name: str, files_metadata: bool = False) -> Any:
        assert files_metadata
        if name not in self.repositories:
            raise OSError("no network")
        size = self.repositories[name][1]
        files = {
            "config.json": 700,
            "tokenizer.json": 7_000_000,
            "modeling_x.py": 9_000,
            "pytorch_model.bin": 99 * GB,
            "README.md": 5_000,
        }
        files |= {f"model-0000{k}-of-00002.safetensors": size // 2 for k in (1, 2)}
        return SimpleNamespace(
            siblings=[SimpleNamespace(rfilename=key, size=value) for key, value in files.items()]
        )

    def snapshot_download(self, name: str, allow_patterns: list[str]) -> str:
        self.fetched.append(allow_patterns)
        folder = self.root / name.replace("/", "--")
        shutil.copytree(GOLDEN / self.repositories[name][0], folder, dirs_exist_ok=True)
        return str(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(
        tmp_path,
        some__dream=("dream_tiny", 15 * GB),
        some__sdar=("sdar_tiny", 3 * GB),
        some__moe=("lladamoe_tiny", 14 * GB),
        some__qwen3=("qwen3_tiny", GB),
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    monkeypatch.setattr(module, "hardware", lambda *_: Hardware("a processor", 20 * GB, 1e12))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * GB, total=32 * GB))
    return found


def test_size_memory_and_time(hub: Hub) -> None:
    lines = preview(
        "some/sdar",
        [("block_diffusion", {"mask_token", "blocks"})],
        tokens=2000,
        dtype="float32",
        device="cpu",
    )
    assert lines == [
        "fetching some/sdar: 4 files, 3.01 GB",
        "weights in float32 on cpu: 3.00 GB of 16.0 GB free: fits",
        "about 5 min at one token per forward (0.15 s each, 2000 tokens of canvas), less in parallel",
    ]
    assert all("*.safetensors" not in patterns for patterns in hub.fetched)


def test_what_does_not_fit_says_what_would(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads((GOLDEN / "sdar_tiny" / "config.json").read_text())
    folder = Path(hub.snapshot_download("some/sdar", []))
    (folder / "config.json").write_text(json.dumps({**told, "torch_dtype": "bfloat16"}))
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(folder))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    hub.repositories["some/sdar"] = ("sdar_tiny", 10 * GB)
    fits = preview("some/sdar", [], tokens=1, dtype="float32", device="cpu")[1]
    assert fits == "weights in float32 on cpu: 20.0 GB of 16.0 GB free: DOES NOT FIT; --dtype bfloat16 would"
    hub.repositories["some/sdar"] = ("sdar_tiny", 40 * GB)
    assert (
        "DOES NOT FIT; choose a smaller --model"
        in preview("some/sdar", [], tokens=1, dtype="bfloat16", device="cpu")[1]
    )


def test_a_method_that_cannot_run_stops_before_the_download(hub: Hub) -> None:
    with pytest.raises(
        CheckpointError, match=r"some/dream \(15.0 GB, not fetched\): block_diffusion needs blocks"
    ):
        preview("some/dream", [("block_diffusion", {"mask_token", "blocks"})], tokens=1, device="cpu")
    with pytest.raises(CheckpointError, match="vanilla needs a mask token"):
        preview("some/qwen3", [("vanilla", {"mask_token"})], tokens=1, device="cpu")
    with pytest.raises(CheckpointError, match="ar needs an autoregressive companion"):
        preview("some/sdar", [("ar", {"causal_lm"})], tokens=1, device="cpu")


def test_a_mixture_of_experts_stops_before_the_download(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="mixture of 8 experts"):
        preview("some/moe", [], tokens=1, device="cpu")
    assert all("*.safetensors" not in patterns for patterns in hub.fetched)


def test_a_missing_adapter_is_said(hub: Hub) -> None:
    lines = preview("some/dream", [("d2f", {"mask_token", "adapter:d2f"})], tokens=1, device="cpu")
    assert lines[-1] == "d2f lacks an adapter d2f (pass --adapter FOLDER, or the bare checkpoint runs)"


def test_nothing_is_said_of_what_is_here_or_cannot_be_asked(hub: Hub) -> None:
    assert preview("nano", [], tokens=1) == []
    assert preview(str(GOLDEN / "sdar_tiny"), [], tokens=1) == []
    assert preview("not/there", [], tokens=1) == []
    assert not on_hub("./some/folder")
    assert not lacks("x", read_spec(GOLDEN / "sdar_tiny"), {"mask_token", "blocks", "block_causal"})


def test_bench_run_stops_before_the_download(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    argv = [
        "bench",
        "run",
        "--model",
        "some/dream",
        "--method",
        "block_diffusion",
        "--suite",
        "nano-gsm",
        "--limit",
        "2",
        "-o",
        str(tmp_path),
    ]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code
    said = capsys.readouterr()
    assert "block_diffusion needs blocks" in " ".join((said.out + said.err).split())
    assert hub.fetched == [list(module._SMALL)]
