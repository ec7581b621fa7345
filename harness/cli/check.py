"""``bench check``: contract tests and audit of one decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Adapter, Device, Dtype, Model, Settings

if TYPE_CHECKING:
    from harness.records.schema import Check

REFERENCE = "vanilla"
SUITES = ("nano-gsm", "nano-code")


def check_command(
    method: Annotated[str, typer.Argument(help="Method name or ./file.py.", metavar="METHOD_OR_FILE")],
    model: Model = "nano",
    limit: Annotated[int, typer.Option("--limit", "-L", min=1, help="Prompts to decode, from both nano suites in turn.")] = 8,
    settings: Settings = None,
    adapter: Adapter = None,
    device: Device = None,
    dtype: Dtype = "auto",
) -> None:
    """Test that a decoder keeps the contract that makes its figures comparable; exit 1 if it does not.

    Every prompt is decoded under observation, again without, and in a batch of four. Checked by name: interface and described
    settings; source free of clocks, counters, printing, files and private parts; forwards and positions equal to a hook on the
    model and to the multiplications done; prompt, rules, clock, model and harness untouched; tokens written through commit alone,
    backed by the model's logits, no mask left; same answer every time and in every batch. A method that says `lossless = True`
    must equal vanilla token for token.

    Examples:

        bench check fast_dllm

        bench check ./mine.py --limit 16 --set width=4

        bench check d2f --model Dream-org/Dream-v0-Base-7B --limit 2
    """
    from harness.conformance.check import check_method, open_method, sample_prompts
    from harness.decoding.registry import load_method
    from harness.decoding.settings import parse_pairs
    from harness.engine.loader import load
    from harness.runs.plan import Wish, settings_for

    entry, source, opened = open_method(method)
    loaded = load(model, entry.decoder.requires, adapter=adapter, dtype=dtype, device=device)
    chosen = settings_for(Wish(entry.name), entry, model, parse_pairs(settings or []), set())
    reference = load_method(REFERENCE) if loaded.spec.mask_id is not None else None
    prompts = sample_prompts(loaded, limit, SUITES)
    checks = check_method(entry, loaded, chosen, prompts, source=source, opened=opened, reference=reference)
    _show(f"{entry.name} on {model}, {len(prompts)} prompts", checks)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def _show(title: str, checks: Sequence[Check]) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table("check", "result", "what was found", title=title)
    for check in checks:
        found = "" if check.passed else check.detail
        table.add_row(check.name, "[green]passed[/green]" if check.passed else "[red]FAILED[/red]", found)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    failed = [check.name for check in checks if not check.passed]
    console.print(f"{len(checks) - len(failed)} of {len(checks)} checks passed" + (f"; failed: {', '.join(failed)}" if failed else ""))
