"""``bench generate``: every method, markers, the picture of a canvas, the animation, and mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from typer.testing import CliRunner

from harness.cli.generate import END, HOLE, GenerateError, block_settings, generate_command, picture, watched
from harness.decoding.forward import Forward
from harness.decoding.settings import SettingError
from harness.engine.generator import Generator
from harness.model import catalog
from harness.model.catalog import Entry
from harness.model.spec import CheckpointError
from harness.model.text import MarkerError
from methods import fewstep
from methods.lockstep import Config
from tests.conftest import GOLDEN
from tests.helpers import backbone, canvas
from tests.tokenizers_tiny import with_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with a tokenizer of one word per id."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(GOLDEN / "dream_tiny", folder, dirs_exist_ok=True)
    tokenizer = Tokenizer(WordLevel({f"w{token}": token for token in range(256)}, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(["w253"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def generate(model: Path | str, prompt: str, *options: str) -> Any:
    app = typer.Typer()
    app.command()(generate_command)
    arguments = [prompt, "--model", str(model), "--adapter", "none", *options]
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("method", "pairs"),
    [
        ("vanilla", []),
        ("fast_dllm", ["block_length=8"]),
        ("d2f", ["block_size=8"]),
        ("lopa", ["block_size=8"]),
        ("fewstep", ["steps=4"]),
        ("lockstep", []),
    ],
)
def test_every_method_takes_marked_prompts(model: Path, method: str, pairs: list[str]) -> None:
    done = generate(
        model,
        "w5 w6 w7 [R:16] [A:8]",
        "--method",
        method,
        *(word for pair in pairs for word in ("--set", pair)),
    )
    assert done.exit_code == 0, done.exception
    assert "w" in done.stdout
    assert f"{method}: " in done.stderr
    assert "tokens per forward" in done.stderr


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_trace_has_a_frame_per_forward(model: Path, tmp_path: Path, ending: str) -> None:
    from PIL import Image

    path = tmp_path / f"out{ending}"
    done = generate(
        model, "w5 w6 w7 [R:6] [A:2]", "--method", "lockstep", "--set", "steps=2", "--trace", str(path)
    )
    assert done.exit_code == 0, done.exception
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 3


@pytest.mark.parametrize(
    ("prompt", "options", "error", "text"),
    [
        ("w5 w6", ["--method", "lockstep"], GenerateError, "no .R. and .A. markers"),
        ("w5 [R]", ["--method", "lockstep"], MarkerError, "one .R. and then one .A."),
        (
            "w5 [R:9] [A]",
            ["--method", "lockstep", "--set", "r_length=4"],
            GenerateError,
            "contradicts --set r_length=4",
        ),
        ("w5 [R] [A]", ["--method", "lockstep", "--set", "tau_r=2"], SettingError, "tau_r=2"),
        (
            "w5 [R:20] [A:20]",
            ["--method", "lockstep", "--set", "max_new_tokens=30"],
            SettingError,
            "canvas of 20 . 20 tokens",
        ),
        ("w5", ["--trace", "out.mp4"], GenerateError, "--trace out.mp4 must end"),
        ("w5", ["--stop-rule", "never"], SettingError, "--stop-rule never"),
    ],
)
def test_mistakes_name_what_to_change(
    model: Path, prompt: str, options: list[str], error: type[Exception], text: str
) -> None:
    done = generate(model, prompt, *options)
    assert isinstance(done.exception, error)
    with pytest.raises(error, match=text):
        raise done.exception


def test_marker_lengths_become_settings_of_methods_with_blocks() -> None:
    known = Config.__dataclass_fields__
    assert block_settings({"tau_r": "0.8"}, {"R": 9, "A": 3}, True, known) == {
        "tau_r": "0.8",
        "r_length": 9,
        "a_length": 3,
    }
    assert block_settings({"r_length": "9"}, {"R": 9}, True, known) == {"r_length": 9}
    assert block_settings({"a_length": "3"}, {}, False, known) == {"a_length": "3"}
    assert block_settings({}, {"R": 9, "A": 3}, True, {"steps": None}) == {}


class Words:
    def decode(self, ids: list[int], skip_special_tokens: bool = False, **_: Any) -> str:
        return "" if skip_special_tokens and ids == [253] else f"w{ids[0]}"


def test_picture_shows_blocks_holes_and_ends() -> None:
    model = backbone("dream_tiny")
    page = canvas(model, [[5]], 6)
    model.forward(page, Forward((0, 7), [1]))
    row = page.rows[0]
    row.divide([4, 2])
    row.commit([1, 3], [20, 21])
    row.commit([5], [253])
    assert picture(row, Words()).plain == f"R 2/4\nw20{HOLE}w21{HOLE}\nA 1/2\n{END}{HOLE}\n"


def test_watching_changes_nothing_and_sees_every_forward() -> None:
    model, seen = backbone("dream_tiny"), []
    outputs = []
    for host in (model, watched(model, lambda row: seen.append(row.output))):
        page = canvas(host, [[5, 6, 7]], 8)
        fewstep.METHOD.decode(host, page, fewstep.Config(steps=4))
        outputs.append((page.rows[0].output, page.rows[0].nfe))
    assert outputs[0] == outputs[1]
    assert [sum(token != page.rules.fill_id for token in output) for output in seen] == [0, 2, 4, 6]


def test_a_prompt_is_put_into_the_chat_template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    turns, opening = "<{{ m.role }}>{{ m.content }}", "{% if add_generation_prompt %}>{% endif %}"
    template = f"{{% for m in messages %}}{turns}{{% endfor %}}{opening}"
    folder = with_tokenizer(tmp_path / "chat", {190: "<|endoftext|>"}, "dream_tiny", chat_template=template)
    monkeypatch.setattr(catalog, "catalog", lambda: {"base": Entry(path=str(folder), chat=False)})
    seen: list[Any] = []

    def run(self: Generator, requests: Any, batch_size: int) -> Any:
        seen.append(requests[0].prompt)
        raise GenerateError("far enough")

    monkeypatch.setattr(Generator, "run", run)
    told = "chat template; --no_chat_template"
    for name, flags, prompt, says in (
        (folder, (), "<user>hello>", True),
        (folder, ("--apply_chat_template",), "<user>hello>", False),
        (folder, ("--no_chat_template",), "hello", False),
        ("base", (), "hello", False),
    ):
        done = generate(name, "hello", *flags)
        assert isinstance(done.exception, GenerateError), done.exception
        assert (seen[-1], told in done.stderr) == (prompt, says)


def test_a_template_that_is_not_there_is_no_traceback(model: Path) -> None:
    done = generate(model, "w5", "--apply_chat_template")
    assert isinstance(done.exception, CheckpointError)
    assert "this checkpoint has no chat template" in str(done.exception)
