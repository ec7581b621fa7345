"""``bench generate``: one prompt, its text on the screen as it fills, optionally an animation."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.decoding.settings import parse_pairs
from harness.engine.flags import (
    PROMPTS,
    Adapter,
    Device,
    Dtype,
    Family,
    Isolate,
    Model,
    NoMerge,
    Seed,
    Settings,
    StopRuleOption,
    stop_rule_of,
)
from harness.engine.isolation.finding import find_method
from harness.errors import UserError
from harness.model.catalog import lookup
from harness.model.text import chat_text, pieces, split_markers
from harness.records.files import digest
from harness.records.schema import Sample
from harness.statistics.blocks import names_of

if TYPE_CHECKING:
    from harness.decoding.backbone import Backbone
    from harness.decoding.row import Row
    from harness.engine.generator import Generation, Generator
    from harness.engine.loader import Loaded

HOLE, END = "\u00b7", "\u220e"


class GenerateError(UserError, ValueError):
    """A prompt that could not be answered, or a trace that cannot be written."""


def generate_command(
    prompt: Annotated[
        str,
        typer.Argument(
            help="The prompt. [R] [A] at its end (or [R:48] [A:16]) mark a reasoning and an answer block."
        ),
    ],
    method: Annotated[str, typer.Option("--method", help="Method name or ./file.py.")] = "vanilla",
    model: Model = "nano",
    adapter: Adapter = None,
    family: Family = None,
    no_merge: NoMerge = False,
    settings: Settings = None,
    stop_rule: StopRuleOption = "harness",
    device: Device = None,
    dtype: Dtype = "auto",
    seed: Seed = 0,
    isolate: Isolate = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--apply_chat_template/--no_chat_template",
            "--apply-chat-template/--no-chat-template",
            help="Put the prompt into the checkpoint's chat template; default: where it has one, known base "
            "models excepted.",
            show_default=False,
            rich_help_panel=PROMPTS,
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="Animation to write, .gif or .webp: one frame per forward pass."),
    ] = None,
    delay: Annotated[
        float, typer.Option("--delay", min=0.0, help="Seconds to wait between forward passes, for watching.")
    ] = 0.0,
) -> None:
    """Answer one prompt and show the canvas while it fills.

    On a terminal the canvas is redrawn after every forward pass; elsewhere only the finished text is printed.
    Speed is not reported, since drawing costs time: `bench run` measures. With the lengths of both blocks,
    [R:48] [A:16], every method fills them as two texts; markers without lengths are for methods that have
    blocks of their own.

    Example:

        bench generate "Explain why the sky is blue [R] [A]" --method lockstep --trace out.gif
    """
    from harness.engine.generator import Request  # both import torch
    from harness.engine.opening import Weights, Wish, check_targets, open_engine, settings_for

    rule = stop_rule_of(stop_rule)
    if trace is not None and trace.suffix not in (".gif", ".webp"):
        raise GenerateError(f"--trace {trace} must end in .gif or .webp")
    entry = find_method(method, isolate)
    text, lengths = split_markers(prompt)
    if not text.strip():
        raise GenerateError("the prompt is empty: give some text in front of any markers")
    pairs = parse_pairs(settings or [])
    check_targets(pairs, {entry.name})
    wished = settings_for(Wish(entry.name), entry, model, pairs, set())
    chosen = block_settings(wished, lengths, text != prompt, entry.decoder.Config.__dataclass_fields__)
    weights = Weights(model, adapter, not no_merge, dtype, device, family)
    generator = open_engine(entry, weights, chosen, seed=seed, stop_rule=rule).generator
    blocks = (lengths["R"], lengths["A"]) if len(lengths) == 2 else ()
    item = _answer(
        generator,
        Request(
            in_format(text, generator.loaded, model, chat), generator.canvas(blocks=blocks), blocks=blocks
        ),
        delay,
        show=sys.stdout.isatty(),
    )
    _report(item, entry.name)
    if trace is not None:
        _animate(item, entry.name, generator.loaded, trace)


def block_settings(
    settings: Mapping[str, Any], lengths: Mapping[str, int], marked: bool, known: Mapping[str, Any]
) -> dict[str, Any]:
    """``settings`` with the lengths of the markers, for a method that has blocks (settings ``r_length``,
    ``a_length``).

    Raises GenerateError if such a method got neither markers nor lengths, or two lengths for one block.
    """
    if "r_length" not in known:
        return dict(settings)
    if not marked and not {"r_length", "a_length"} & set(settings):
        raise GenerateError(
            "prompt has no [R] and [A] markers: end it with `[R] [A]`, or give --set r_length=N or --set "
            "a_length=N"
        )
    merged = dict(settings)
    for name, length in lengths.items():
        key = f"{name.lower()}_length"
        if key in merged and str(merged[key]) != str(length):
            raise GenerateError(f"[{name}:{length}] contradicts --set {key}={merged[key]}: give one of them")
        merged[key] = length
    return merged


def in_format(text: str, loaded: Loaded, model: str, chat: bool | None) -> str:
    """The prompt as the model was trained to read it; ``chat``: whether in the chat template (None: if the
    checkpoint has one and is no base model that brings another's). Says so where nobody asked.
    """
    if chat is None:
        has = bool(getattr(loaded.tokenizer, "chat_template", None))
        chat = has and lookup(model).chat is not False
        if chat:
            typer.echo(
                "the prompt is put into the model's chat template; --no_chat_template: as it is", err=True
            )
    return chat_text(loaded.tokenizer, [{"role": "user", "content": text}]) if chat else text


def _answer(generator: Generator, request: Any, delay: float, show: bool) -> Generation:
    from harness.engine.held import Held

    if not show:
        return next(iter(generator.run([request], 1)))[0]
    tokenizer = generator.loaded.tokenizer
    with Live(console=Console(), auto_refresh=False) as live:

        def draw(row: Row) -> None:
            live.update(picture(row, tokenizer), refresh=True)
            time.sleep(delay)

        generator.loaded = replace(
            generator.loaded, held=Held.ready(watched(generator.loaded.backbone, draw))
        )
        item = next(iter(generator.run([request], 1)))[0]
        live.update("", refresh=True)
    return item


def watched(backbone: Backbone, draw: Any) -> Backbone:
    """The same backbone; ``draw`` gets the first row before every forward pass."""
    from harness.decoding.backbone import Backbone

    class Shown(Backbone):
        def forward_rows(self, canvas: Any, requests: Any, cache: Any = None) -> Any:
            draw(canvas.rows[0])
            return super().forward_rows(canvas, requests, cache)

    return Shown(backbone._model, backbone.device, backbone.dtype)


def picture(row: Row, tokenizer: Any) -> Text:
    """The generation region as text: dots where nothing is written, the newest tokens bright, one paragraph
    per block.
    """

    shown, newest = Text(), max(row.step_map, default=-1)
    for (start, stop), name in zip(row.spans, names_of(row.spans), strict=True):
        left = sum(not row.written(position) for position in range(start, stop))
        if row.divided:
            shown.append(f"{name} {stop - start - left}/{stop - start}\n", style="bold cyan")
        for position in range(start, stop):
            if not row.written(position):
                shown.append(HOLE, style="dim")
                continue
            token = row.token(position)
            piece = (
                END
                if tokenizer.decode([token], skip_special_tokens=True) == ""
                else pieces(tokenizer, [token])[0]
            )
            shown.append(
                piece, style="bold yellow" if row.step_map[position - row.prompt_length] == newest else ""
            )
        shown.append("\n")
    return shown


def _report(item: Generation, method: str) -> None:
    row = item.decoded
    if row is None:
        raise GenerateError(f"{method} gave no answer: {item.error}")
    typer.echo(item.text)
    useful, rate = item.useful or 0, (item.useful or 0) / row.nfe if row.nfe else 0.0
    typer.echo(
        f"{method}: {useful} tokens in {row.nfe} forward passes, {rate:.2f} tokens per forward", err=True
    )
    if item.status != "ok":
        raise GenerateError(f"{method} ended with status {item.status}: {item.error}")


def _animate(item: Generation, method: str, loaded: Loaded, path: Path) -> None:
    from harness.runs.fields import measured
    from reports.trace import animate

    sample = Sample(
        run_id="generate",
        suite="generate",
        method=method,
        doc_id=0,
        prompt_hash=digest(item.prompt_ids),
        order=0,
        prompt_tokens=len(item.prompt_ids),
        text=item.text,
        useful=item.useful,
        status=item.status,
        **measured(item.decoded, loaded.tokenizer),
    )
    frames = animate(sample, path, title=f"{method} with {loaded.model}")
    typer.echo(f"{path}: {frames} frames", err=True)
