"""Behind glass: the same answers as in one process, nothing in reach, and nothing believed that comes
through.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward, Shadow, Soft
from harness.decoding.masks import BLIND, BlockCausal, Causal, LeaveOneOut
from harness.decoding.registry import MethodError, load_method
from harness.decoding.rules import CanvasError
from harness.decoding.settings import SettingError
from harness.engine.generator import Generator, Request
from harness.engine.isolation.decoder import replay
from harness.engine.isolation.explained import Offers
from harness.engine.isolation.finding import find_method
from harness.engine.isolation.glass import Glass, glass_for
from harness.engine.isolation.messages import Bounds, BrokenMessage, CannotCross, receive, request_out, send
from harness.engine.isolation.rehearsal import rehearse
from harness.engine.loader import load
from harness.engine.opening import open_engine
from harness.measuring.clock import decode
from harness.runs.plan import make_plan, run_id
from harness.runs.suite import Rendering
from harness.sandbox import JailError, Limits, launch
from harness.sandbox.order import Backend, Order
from tests.conftest import GOLDEN

jailed = pytest.mark.skipif(launch.probe()[0] == "none", reason="nothing isolates here")
PROMPTS = ([5, 6, 7], [9, 8, 7, 6, 5, 4], [11], [3, 3, 3, 3])

DECODER = """
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from methods.base import Forward, RowDecoder, SamplingConfig, ask

{before}

@dataclass(frozen=True)
class Config(SamplingConfig):
    width: Annotated[int, Field(gt=0, description="tokens per forward")] = 2


class Mine(RowDecoder):
    name = "mine"
    summary = "left to right"
    Config = Config
    requires = frozenset({{"mask_token"}})

    def check(self, spec, config, new_tokens):
        if new_tokens % config.width:
            raise __import__("methods.base").base.SettingError("width must divide max_new_tokens")

    def decode_row(self, row, spec, config):
        while at := row.masked()[: config.width]:
            best = yield from ask(Forward(feed=(0, row.length), at=at), row, spec, config)
            {inside}
            row.commit(at, best.ids, best.probability)

METHOD = Mine()
"""


def answers(generator: Generator, size: int, stops: tuple[str, ...] = ()) -> list[Any]:
    requests = [Request(prompt, 16, stops) for prompt in PROMPTS]
    rows = [item for batch in generator.run(requests, size) for item in batch]
    return [
        (
            row.decoded
            and (row.decoded.output, row.decoded.step_map, row.decoded.forwards, row.decoded.queries),
            row.error,
        )
        for row in rows
    ]


CASES = [
    ("vanilla", "dream_eos_tiny", {}),
    ("vanilla", "llada_eos_tiny", {"temperature": 0.7, "top_p": 0.9}),
    ("fast_dllm", "dream_eos_tiny", {"block_length": 8, "cache": "dual"}),
    ("d2f", "dream_eos_tiny", {"block_size": 8}),
    ("lopa", "dream_eos_tiny", {"block_size": 8}),
    ("wino", "llada_eos_tiny", {"block_length": 8}),
]


@jailed
@pytest.mark.parametrize(("name", "model", "settings"), CASES)
def test_the_glass_changes_no_answer(name: str, model: str, settings: dict[str, Any]) -> None:
    inside, outside = find_method(name, isolate=True), load_method(name)
    loaded = load(str(GOLDEN / model), inside.decoder.requires, adapter="none")
    for size in (1, 4):
        found, expected = (
            answers(Generator(loaded, method.decoder, settings), size) for method in (inside, outside)
        )
        assert found == expected
        assert any(row for row, _ in found)


class EndsAt:
    """Stop strings of a tokenizer whose every id is a character: any of ``marks`` ends the text."""

    reach = 1

    def __init__(self, marks: set[int]) -> None:
        self.marks = marks

    def within(self, ids: Sequence[int]) -> bool:
        return bool(self.marks & set(ids))

    def end(self, ids: Sequence[int]) -> int | None:
        return next((k + 1 for k, value in enumerate(ids) if value in self.marks), None)


@jailed
def test_stop_strings_are_searched_by_the_judge() -> None:
    loaded = load(str(GOLDEN / "dream_eos_tiny"))
    settings: dict[str, Any] = {"block_length": 4}
    generators = [
        Generator(loaded, find_method("hierarchy", isolate).decoder, settings) for isolate in (True, False)
    ]
    prompts = [list(prompt) for prompt in PROMPTS]
    free = decode(
        loaded.backbone, generators[1].decoder, generators[1].config, prompts, 16, stop_rule="reference"
    )
    stops: Any = EndsAt({row.output[5] for row in free})
    found, expected = (
        decode(loaded.backbone, one.decoder, one.config, prompts, 16, stops=stops) for one in generators
    )
    assert [(row.output, row.nfe, row.step_map) for row in found] == [
        (row.output, row.nfe, row.step_map) for row in expected
    ]
    assert any(row.nfe < whole.nfe for row, whole in zip(found, free, strict=True))


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """A method file with code of its own before the class and inside the loop; what its first answer's error
    says.
    """

    def run(inside: str = "pass", before: str = "", **settings: Any) -> str | None:
        file = tmp_path / "mine.py"
        file.write_text(DECODER.format(before=before, inside=inside))
        generator = open_engine(str(file), str(GOLDEN / "dream_eos_tiny"), settings).generator
        return next(generator.run([Request(PROMPTS[0], generator.canvas(default=16))], 1))[0].error

    return run


@jailed
def test_a_file_is_isolated_and_its_settings_are_checked_by_its_own_config(written: Any) -> None:
    assert written() is None
    assert written(width="4") is None
    with pytest.raises(
        SettingError, match=r"^--set width=0: Input should be greater than 0 \(method mine\)$"
    ):
        written(width="0")
    with pytest.raises(SettingError, match="mine has max_new_tokens, temperature, top_k, top_p, width"):
        written(breadth=1)
    with pytest.raises(ValueError, match="width must divide max_new_tokens"):
        written(width=3)
    with pytest.raises(MethodError, match="could not be imported: ZeroDivisionError"):
        written(before="1 / 0")


@jailed
@pytest.mark.parametrize("backend", ["bubblewrap", "unshare", "landlock+seccomp"])
def test_nothing_is_in_reach(written: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        launch.start(backend, Order("candidate", Limits())).kill()
    except JailError as error:
        pytest.skip(f"{backend} does not start here: {error}")
    monkeypatch.setattr(launch, "probe", lambda: (backend, {}))
    glass_for.cache_clear()  # the jail of the strongest backend ends with the process
    here = Path(__file__)
    for attempt in (
        f"open({str(here)!r})",
        "open('/etc/passwd')",
        "open('/proc/self/maps')",
        "__import__('suites.suite')",
        "__import__('transformers')",
        "__import__('os').fork()",
        "__import__('threading').Thread(target=print).start()",
        "__import__('socket').socket(2, 1)",
        "__import__('pathlib').Path('note').write_text('more than nothing' * 100000)",
        "row._canvas",
    ):
        error = written(attempt)
        assert error is not None, attempt
        assert error.startswith("DecoderError: "), error
    glass_for.cache_clear()


@jailed
def test_a_jail_that_is_gone_or_starved_is_one_clear_line() -> None:
    origin = {"kind": "installed", "name": "vanilla"}
    for signal_, seconds, words in ((signal.SIGKILL, 20.0, "has ended"), (signal.SIGSTOP, 0.2, "within 0 s")):
        glass = Glass()
        for process in psutil.Process(glass._running.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # the first one's end may be that of the others
                process.send_signal(signal_)
        glass._control.settimeout(seconds)
        with pytest.raises(JailError, match=f"jail for decoders .*{words}.*--no-isolate"):
            glass.child(origin, {"kind": "desk"})
        glass.close()


@jailed
def test_nothing_is_kept_between_answers(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    notes = "import builtins, os\n"
    inside = (
        "assert not hasattr(builtins, 'note') and os.listdir('.') == []; builtins.note = 1; "
        "self.__class__.note = 1; open('note', 'w').close()"
    )
    file.write_text(
        DECODER.format(before=notes, inside=inside).replace(
            "decode_row(self, row, spec, config):",
            "decode_row(self, row, spec, config):\n        assert not hasattr(self, 'note')",
        )
    )
    generator = open_engine(str(file), str(GOLDEN / "dream_eos_tiny"), {"width": 16}).generator
    for size in (1, 4):
        assert [error for _, error in answers(generator, size)] == [None] * 4


@jailed
def test_a_decoder_that_drives_the_model_itself_is_refused_by_name() -> None:
    with pytest.raises(MethodError, match=r"decode of its own.*--no-isolate"):
        find_method(str(Path(__file__).parents[1] / "cheaters" / "model_copy.py"))
    assert (
        find_method(str(Path(__file__).parents[1] / "cheaters" / "model_copy.py"), isolate=False).isolated
        is False
    )


@jailed
def test_a_policy_inside_the_layers_is_refused_with_the_flag() -> None:
    generator = open_engine(
        "klass:cache=dllm_cache,block_length=8", str(GOLDEN / "dream_eos_tiny"), isolate=True
    ).generator
    (_, error), *_ = answers(generator, 1)
    assert error is not None
    assert "--no-isolate" in error


REQUESTS = [
    Forward(feed=(0, 9), at=[3, 5, 4]),
    Forward(feed=[0, 1, 4], at=range(2, 4), keep=[0, 1], see=(0, 2), mask=BlockCausal(4, 3), fresh=True),
    Forward(feed=[(0, 2), (5, 7)], at=(), mask=Causal(), cached=False, trial=True, adopt=2, level=3),
    Forward(feed=(0, 9), at=[10], assume={4: 2}, shadow=Shadow(range(3, 5), [1, 2], LeaveOneOut())),
    Forward(feed=(0, 9), at=[8, 29], shadow=Shadow([*range(10)] * 2, [1] * 20, BLIND, groups=2)),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_crosses_as_it_is(request_: Forward) -> None:
    there = Bounds(10, 20).request(json.loads(json.dumps(request_out(request_))))
    assert request_out(there) == request_out(request_)
    assert (there.mask, list(there.at), there.assume) == (
        request_.mask,
        list(request_.at),
        dict(request_.assume or {}) or request_.assume,
    )


def test_a_mixture_crosses_with_all_bits_and_functions_do_not() -> None:
    weights = torch.rand(3)
    there = Bounds(10, 20).request(
        request_out(Forward((0, 9), [1], soft={4: Soft(torch.tensor([1, 2, 3]), weights)}))
    )
    assert torch.equal(there.soft[4].weights.float(), weights)

    class Own(Causal):
        pass

    for request in (replace(REQUESTS[0], mask=Own()), replace(REQUESTS[0], layers=object())):
        with pytest.raises(CannotCross, match="--no-isolate"):
            request_out(request)


BROKEN = [
    None,
    [],
    {"feed": [[0, 1]]},
    {"feed": [[0, 99]], "at": []},
    {"feed": [[0, 1.0]], "at": []},
    {"feed": [[True, 2]], "at": []},
    {"feed": [[3, 3]], "at": []},
    {"feed": [[0, 2], [1, 4]], "at": []},
    {"feed": [[0, 1]], "at": [[0, 10**12]]},
    {"feed": [[0, 1]], "at": ["0"]},
    {"feed": [[0, 1]], "at": [10]},
    {"feed": [[0, 1]], "at": [12], "shadow": [[3, 4], None, ["blind"], 1]},
    {"feed": [[0, 1]], "at": [], "shadow": [[3] * 161, None, ["blind"], 1]},
    {"feed": [[0, 1]], "at": [], "shadow": [[3, 4], [1], ["blind"], 1]},
    {"feed": [[0, 1]], "at": [0] * 1000},
    {"feed": [[0, 1]], "at": [], "see": [[0, 10**15]]},
    {"feed": [[0, 1]], "at": [], "mask": ["eval", "1"]},
    {"feed": [[0, 1]], "at": [], "mask": ["block_causal", 0, None]},
    {"feed": [[0, 1]], "at": [], "layers": {}},
    {"feed": [[0, 1]], "at": [], "assume": [[1, -1]]},
    {"feed": [[0, 1]], "at": [], "soft": [[1, [1], [float("nan")]]]},
    {"feed": [[0, 1]], "at": [], "soft": [[1, [1, 2], [0.5]]]},
    {"feed": [[0, 1]], "at": [], "want": ["best", True]},
    {"feed": [[0, 1]], "at": [], "fresh": 1},
]


@pytest.mark.parametrize("data", BROKEN)
def test_a_broken_request_is_named(data: Any) -> None:
    with pytest.raises(BrokenMessage):
        Bounds(10, 20).request(data)


@pytest.mark.parametrize(
    "writes",
    [
        None,
        [["commit", [3], [1], [float("inf")]]],
        [["commit", [3], [1]]],
        [["commit", [30], [1], None]],
        [["commit", [3], [99], None]],
        [["commit", [3, 4], [1], None]],
        [["commit", [1], [1], None]],
        [["_take_back", [3], [1], None]],
        [["close", "end"]],
        [["divide", [0]]],
        [["close", 4]] * 1000,
    ],
)
def test_a_broken_write_is_named(writes: Any) -> None:
    canvas = Canvas([[1, 2]], 8, vocab_size=20, mask_id=19, eos_ids=(0,))
    canvas.meter.record(0, (1, 0, 0), 1)
    with pytest.raises(CanvasError):
        replay(canvas.rows[0], writes)


def test_messages_that_are_none_are_named() -> None:
    for body in (b"\0\0\0\4nope", b"\xff\xff\xff\xff", b"\0\0\0\1" + b"12", b"\0\0\x40\0" + b"[" * 0x4000):
        here, there = socket.socketpair()
        with here, there:
            there.sendall(body)
            with pytest.raises(BrokenMessage):
                receive(here)
    here, there = socket.socketpair()
    with here, there:
        send(there, ["x" * 100_000])
        assert receive(here) == ["x" * 100_000]
        there.sendall(b"\0\0")
        there.close()
        assert receive(here) is None


@jailed
def test_a_plan_says_whether_its_decoder_was_isolated(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(DECODER.format(before="", inside="pass"))
    plans = []
    for isolate in (None, False):
        opened = open_engine(str(file), str(GOLDEN / "dream_eos_tiny"), isolate=isolate)
        facts: dict[str, Any] = {
            "suite": "s",
            "prompts": [],
            "limit": 1,
            "canvas": 16,
            "blocks": (),
            "batch_size": 1,
            "repeats": 1,
        }
        plans.append(
            make_plan(opened.loaded, opened.method, opened.generator, rendering=Rendering(), **facts)
        )
    assert [plan.isolated for plan in plans] == [True, False]
    assert run_id(plans[0]) != run_id(plans[1])
    assert plans[0].settings == plans[1].settings
    ours = open_engine("vanilla", str(GOLDEN / "dream_eos_tiny")).method
    assert ours.isolated is None


@pytest.mark.parametrize("mask_id", [7, None])
@pytest.mark.parametrize("new_tokens", [1, 6])
def test_the_rehearsal_runs_on_any_shape_of_canvas(mask_id: int | None, new_tokens: int) -> None:
    spec = replace(load("nano").spec, vocab_size=8, mask_id=mask_id)
    canvas = Canvas([[0]], new_tokens, seeds=[0], vocab_size=8, mask_id=mask_id, eos_ids=(6,))
    rehearse(spec, canvas)
    row = canvas.rows[0]
    assert sum(row.written(position) for position in range(1, row.length)) == min(2, new_tokens)
    assert row._rng is not None


@pytest.mark.parametrize(("shadowed", "faults"), [(True, 0), (False, 1)])
def test_a_shadow_row_speaks_for_the_position_that_it_stands_for(shadowed: bool, faults: int) -> None:
    row = Canvas([[0]], 2, vocab_size=64, mask_id=63, eos_ids=(62,)).rows[0]
    logits = torch.arange(64.0).repeat(2, 1)
    logits[1, 5] = 99.0  # the canvas ranks id 5 near the end, the draft beside it first
    offers = Offers(row, greedy=True)
    shadow = Shadow([1, 2], [4, 63], BLIND) if shadowed else None
    offers.answered(Forward((0, 3), [2, 4 if shadowed else 1], shadow=shadow), logits)
    offers.written([2], [5])
    assert len(offers.faults()) == faults
