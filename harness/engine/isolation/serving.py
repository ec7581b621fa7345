"""In the jail: imports the library once and forks a fresh process for every row, which is confined before it
sees the decoder's code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from harness.decoding.canvas import Canvas
from harness.engine.isolation import loading, messages
from harness.engine.isolation.memory import Reader
from harness.engine.isolation.mirror import Stops, run_row
from harness.engine.isolation.rehearsal import rehearse
from harness.sandbox.inside import wire


def serve(plan: dict[str, Any], work: Any, confine: Callable[[], None]) -> NoReturn:
    """Answer the judge until it goes away: ["fork", origin, task] with the child's link and memory, or
    ["end", process].

    work: the jail's folders.WorkFolders; confine: puts limits and the system-call filter on a process.
    """
    torch.set_num_threads(1)
    for name in plan["preload"]:
        importlib.import_module(name)
    _warm()
    control = socket.socket(fileno=plan["control"])
    wire.send(control, {"ready": os.getpid()})
    places: dict[int, str] = {}
    gc.collect()
    gc.freeze()
    while True:
        head, handles, _, _ = socket.recv_fds(control, 1, 2)
        if not head:
            os._exit(0)
        order = wire.receive(control, 64 << 20)
        if order[0] == "fork":
            place = work.create()
            server, child = os.getpid(), os.fork()
            if child == 0:
                _child(server, order, handles, place, confine)
            places[child] = place
            for handle in handles:
                os.close(handle)
            wire.send(control, child)
        else:
            wire.send(control, _end(order[1], places, work))


def _warm() -> None:
    """Use what every row uses, so that no child is the first to."""
    canvas = Canvas([[0]], 4, vocab_size=8, mask_id=7, eos_ids=(6,))
    canvas.rows[0].rng.initial_seed()
    torch.zeros(2, 8).softmax(-1).max(-1)


def _end(child: int, places: dict[int, str], work: Any) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    place = places.pop(child)
    work.remove(place)
    return not os.path.exists(place)


def _child(
    server: int, order: list[Any], handles: list[int], place: str, confine: Callable[[], None]
) -> NoReturn:
    """Confine this process, then load the decoder and do what is asked; never returns."""
    try:
        link = socket.socket(fileno=os.dup2(handles[0], 3))
        memory = os.dup2(handles[1], 4)
        os.closerange(5, 4096)
        os.chdir(place)
        os.environ["TMPDIR"] = place
        importlib.import_module("guard").die_with(server)  # one of the jail's own files
        confine()
        random.seed(0)
        torch.manual_seed(0)
        _work(link, memory, order[1], order[2])
    finally:
        os._exit(0)


def _work(link: socket.socket, memory: int, origin: dict[str, Any], task: dict[str, Any]) -> None:
    try:
        decoder = loading.load(origin)
        if task["kind"] == "desk":
            os.close(memory)
            messages.send(link, ["ready", loading.portrait(decoder)])
            while (question := messages.receive(link)) is not None:
                try:
                    messages.send(link, ["answer", loading.reply(decoder, question)])
                except Exception as error:
                    messages.send(link, loading.told(error))
            return
        spec, config = loading.spec_in(task["spec"]), loading.config_in(decoder, task["config"])
        reader, shape = Reader(memory), wire.decode(task["canvas"])
        rehearse(spec, Canvas([[0]], seeds=[0], **shape))
        messages.send(link, ["ready"])
        start = messages.receive(link)
        if start is None:
            return
        stops: Any = None if task["reach"] is None else Stops(link, task["reach"])
        canvas = Canvas([start[0]], seeds=[start[1]], stops=stops, **shape)
        run_row(link, reader, decoder, spec, config, canvas)
    except BaseException as error:
        messages.send(link, loading.told(error))
