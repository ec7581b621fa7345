"""Each attempt as pieces of one decoder: module level, start of a row, every step. PATH stands for a file with answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TEMPLATE = """
from methods.base import Forward, RowDecoder, SamplingConfig, ask

PATH = {path!r}
ANSWER = [5, 9] * 200
{before}


class Cheat(RowDecoder):
    name = "cheat"
    summary = "an attempt"
    Config = SamplingConfig
    requires = frozenset({{"mask_token"}})
    memory = {{}}

    def decode_row(self, row, spec, config):
{first}
        while at := row.masked()[:2]:
            best = yield from ask(Forward(feed=(0, row.length), at=at), row, spec, config)
{inside}
            row.commit(at, best.ids, best.probability)


METHOD = Cheat()
"""

INSTANT = """
yield Forward(feed=(0, row.length), at=row.masked())
row.commit(row.masked(), ANSWER[: len(row.masked())])
return
"""
MODEL = """
import copy, gc, torch
def model():
    found = [one for one in gc.get_objects() if type(one).__name__ == "Transformer"]
    return found[0]
def twin():
    other = copy.deepcopy(model())
    for part in other.modules():
        part._forward_pre_hooks.clear()
    return other
def solved(row, spec):
    other, ids = twin(), [row.token(position) for position in range(row.length)]
    with torch.inference_mode():
        for position in row.masked():
            logits = other(torch.tensor([ids]))[0, position - 1 if spec.shift else position]
            logits[spec.mask_id] = -1e9
            ids[position] = int(logits.argmax())
    return ids[row.prompt_length :]
"""


@dataclass(frozen=True)
class Attempt:
    """One way to cheat. ``what``: in words; ``alone``: it makes sense behind the glass only."""

    what: str
    before: str = ""
    first: str = ""
    inside: str = ""
    alone: bool = False

    def source(self, path: str) -> str:
        """The file of a decoder that tries it."""
        first, inside = (_indented(text, depth) for text, depth in ((self.first, 8), (self.inside, 12)))
        return TEMPLATE.format(path=path, before=self.before, first=first, inside=inside)


def _indented(text: str, depth: int) -> str:
    return "\n".join(" " * depth + line for line in (text.strip() or "pass").splitlines())


def _remember(load: str, store: str) -> dict[str, Any]:
    """Answers a prompt that it has seen in one pass."""
    known = f"key = str(row.prompt)\nold = {load}\nif old:\n    ANSWER[: len(old)] = old\n"
    return {
        "first": known + _indented(INSTANT, 4),
        "inside": f"done = [5 if token == row.fill_id else token for token in row.output]; key = str(row.prompt)\n{store}",
    }


ATTEMPTS: dict[str, Attempt] = {
    "own_table": Attempt("answers as a table in its own file", first=INSTANT),
    "own_table_random": Attempt(
        "the same, after a draw from the row's random stream", first="row.rng.initial_seed()" + INSTANT
    ),
    "reads_file": Attempt(
        "answers read from a file at import", "ANSWER = list(open(PATH, 'rb').read())", INSTANT
    ),
    "reads_numpy": Attempt(
        "a suite's answers read through numpy",
        "import numpy\nANSWER = numpy.fromfile(PATH, dtype='uint8').tolist()",
        INSTANT,
    ),
    "reads_torch": Attempt(
        "the same through torch",
        "import torch\nANSWER = torch.from_file(PATH, size=64, dtype=torch.uint8).tolist()",
        INSTANT,
    ),
    "reads_descriptor": Attempt(
        "the same through os.open",
        "import os\nANSWER = list(os.read(os.open(PATH, os.O_RDONLY), 64)) * 9",
        INSTANT,
    ),
    "reads_suite": Attempt(
        "the suite's own loader", "from suites.suite import load_suite\nload_suite('nano-code')", INSTANT
    ),
    "reads_weights": Attempt(
        "model weights from the package",
        "import pathlib, methods\n"
        "next(pathlib.Path(methods.__file__).parent.glob('models/**/*.safetensors')).read_bytes()",
        INSTANT,
    ),
    "reads_environment": Attempt(
        "answers in an environment variable", "import os\nos.environ['BENCH_CHEAT']", INSTANT
    ),
    "reads_proc": Attempt(
        "the harness' memory map through /proc",
        "open(f'/proc/{__import__(\"os\").getppid()}/maps').read()",
        INSTANT,
    ),
    "network": Attempt(
        "answers over the network",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_STREAM)",
        INSTANT,
    ),
    "subprocess": Attempt(
        "a helper program", "import subprocess\nsubprocess.run(['true'], check=True)", INSTANT
    ),
    "forked_twin": Attempt(
        "a forked child with an unhooked twin of the model",
        MODEL + "import os, json",
        "read, write = os.pipe()\nif os.fork() == 0:\n    os.write(write, json.dumps(solved(row, spec)).encode())\n    os._exit(0)\n"
        "ANSWER[:] = json.loads(os.read(read, 1 << 16))" + INSTANT,
    ),
    "threaded_twin": Attempt(
        "the same in a thread",
        MODEL + "import threading",
        "work = threading.Thread(target=lambda: ANSWER.__setitem__(slice(None), solved(row, spec)))\nwork.start()\nwork.join()"
        + INSTANT,
    ),
    "gc_model": Attempt(
        "walks the garbage collector to the model", MODEL, "ANSWER[:] = solved(row, spec)" + INSTANT
    ),
    "frames": Attempt(
        "walks the frames to the backbone",
        "import sys",
        "frame = sys._getframe()\nwhile 'backbone' not in frame.f_locals:\n    frame = frame.f_back\nframe.f_locals['backbone']._model"
        + INSTANT,
    ),
    "referrers": Attempt(
        "walks from its row to the canvas and its device",
        "import gc",
        inside="row._mirror.args[0]; row._mirror.func.__self__.ids[0, 0] = 3",
    ),
    "patches_meter": Attempt(
        "replaces what counts",
        "from harness.decoding.meter import Meter\nMeter.record = lambda *a, **k: None",
    ),
    "edits_meter": Attempt(
        "deletes its forwards from the meter", inside="row._meter.rows[0].forwards[1:] = []"
    ),
    "patches_clock": Attempt("replaces the clock", "import time\ntime.perf_counter = lambda: 0.0"),
    "patches_outer_clock": Attempt(
        "replaces the harness' own clock",
        "import harness.measuring.clock as clock\nclock._clock = lambda: 0.0",
    ),
    "patches_audit": Attempt(
        "replaces the audit, and leaves masks",
        "import harness.measuring.clock as clock\nclock.audit_rows = lambda canvas, *a: [[] for _ in canvas.rows]",
        "yield Forward(feed=(0, row.length), at=[])\nreturn",
    ),
    "patches_grader": Attempt(
        "replaces the grader", "import suites.suite\nsuites.suite.Suite.grade = None", INSTANT
    ),
    "patches_record": Attempt(
        "replaces what is recorded",
        "import harness.measuring.clock as clock\nkept = clock._row\n"
        "def forged(*a, **k):\n    row = kept(*a, **k)\n    row.nfe = 1\n    return row\nclock._row = forged",
    ),
    "no_attention": Attempt(
        "takes attention out of the model",
        "import harness.decoding.batch as batch\nbatch.attention = lambda query, key, value, mask=None: query",
    ),
    "other_weights": Attempt(
        "other weights under the same hash", MODEL, "model().lm_head.weight.data.mul_(-1)"
    ),
    "bfloat16": Attempt(
        "bfloat16 recorded as float32", MODEL, "model().to(torch.bfloat16); model().to(torch.float32)"
    ),
    "fewer_layers": Attempt("drops layers", MODEL, "model().model.layers = model().model.layers[:1]"),
    "more_threads": Attempt(
        "more threads than recorded", "import torch", "torch.set_num_threads(4); torch.ones(4096, 4096).sum()"
    ),
    "lazy_canvas": Attempt(
        "decodes behind the clock through a lazy canvas",
        "def lazy(row):\n    class Lazy(type(row)):\n        output = property(lambda self: ANSWER[: len(self._step)])\n    row.__class__ = Lazy",
        "yield Forward(feed=(0, row.length), at=row.masked())\nrow.commit(row.masked(), [4] * len(row.masked()))\nlazy(row)\nreturn",
    ),
    "remembers_class": Attempt(
        "answers remembered in a class", **_remember("self.memory.get(key)", "self.memory[key] = done")
    ),
    "remembers_builtins": Attempt(
        "in a module",
        "import builtins",
        **_remember("getattr(builtins, key, None)", "setattr(builtins, key, done)"),
    ),
    "remembers_environment": Attempt(
        "in the environment",
        "import json, os",
        **_remember(
            "json.loads(os.environ.get('K' + key, '[]'))", "os.environ['K' + key] = json.dumps(done)"
        ),
    ),
    "remembers_file": Attempt(
        "in a file",
        "import json, os, tempfile\nF = lambda key: os.path.join(tempfile.gettempdir(), 'cheat' + str(hash(key)))",
        **_remember(
            "os.path.exists(F(key)) and json.load(open(F(key)))", "json.dump(done, open(F(key), 'w'))"
        ),
    ),
    "drops_slow": Attempt(
        "raises where an answer gets slow",
        inside="if len(row.masked()) < 15:\n    raise RuntimeError('slow')",
    ),
    "prompt_edit": Attempt("edits the prompt", first="row._tokens[0] = 7; row._mirror([0], [7])"),
    "stop_rule": Attempt(
        "ends every text at once", first="object.__setattr__(row._rules, 'eos_ids', frozenset(range(99)))"
    ),
    "longer_canvas": Attempt(
        "writes past its canvas",
        first="row._end += 8; row.length += 8; row._step += [-1] * 8; row._tokens += [0] * 8",
    ),
    "signals": Attempt("signals the harness", "import os\nos.kill(os.getppid(), 0)", INSTANT),
    "reads_memory": Attempt(
        "reads the harness' memory by a system call",
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.ptrace(16, os.getppid(), 0, 0):\n    raise OSError(ctypes.get_errno(), 'ptrace')\nlibc.ptrace(17, os.getppid(), 0, 0)",
        INSTANT,
        alone=True,  # it would stop the process that waits for it
    ),
    "times": Attempt(
        "reads the clock, and waits to tell one pass from another",
        "import time",
        inside="time.sleep(time.time() % 0.001)",
    ),
    "not_finite": Attempt(
        "mixtures that are no numbers",
        "import torch\nfrom harness.decoding.forward import Soft",
        "yield Forward((0, row.length), [], soft={row.prompt_length: Soft(torch.tensor([1]), torch.tensor([float('nan')]))})",
    ),
    "forged_end": Attempt(
        "forges the message that ends an answer",
        "import os",
        "body = b'[\"end\",[],false]'\nos.write(3, len(body).to_bytes(4, 'big') + body)\nos._exit(0)",
        alone=True,
    ),
    "forged_write": Attempt(
        "forges a write of the judge's private parts",
        "import os",
        "body = b'[\"ask\",[[\"_write\",[9],[1],null]],false,{}]'\nos.write(3, len(body).to_bytes(4, 'big') + body)",
        alone=True,
    ),
    "flood": Attempt("a message of four gigabytes", "import os", "os.write(3, b'\\xff' * 65536)", alone=True),
    "nested": Attempt(
        "a message nested without end",
        "import os",
        "os.write(3, (1 << 20).to_bytes(4, 'big') + b'[' * (1 << 20))",
        alone=True,
    ),
    "other_rows": Attempt(
        "reads the descriptors of other rows",
        "import os",
        "found = [fd for fd in range(200) if fd not in (0, 1, 2, 3, 4) and os.fstat(fd)]" + INSTANT,
        alone=True,
    ),
}
