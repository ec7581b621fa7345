"""``bench check``: contract tests and audit of one decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.decoding.registry import load_method
from harness.decoding.settings import parse_pairs
from harness.engine.flags import Adapter, Device, Dtype, Family, Model, Settings
from harness.model.text import encode
from harness.records.printable import columns, in_console
from suites.suite import load_suite

if TYPE_CHECKING:
    from harness.engine.loader import Loaded
    from harness.records.schema import AuditCheck

REFERENCE = "vanilla"
SUITES = ("nano-gsm", "nano-code")


def check_command(
    method: Annotated[str, typer.Argument(help="Method name or ./file.py.", metavar="METHOD_OR_FILE")],
    model: Model = "nano",
    limit: Annotated[
        int, typer.Option("--limit", "-L", min=1, help="Prompts to decode, from both nano suites in turn.")
    ] = 8,
    settings: Settings = None,
    adapter: Adapter = None,
    family: Family = None,
    device: Device = None,
    dtype: Dtype = "auto",
) -> None:
    """Test that a decoder keeps the contract that makes its figures comparable; exit 1 if it does not.

    Every prompt is decoded under observation, again without, and in a batch of four. Checked by name:
    interface and described settings; source free of clocks, counters, printing, files and private parts;
    forwards and positions equal to a hook on the model and to the multiplications done; prompt, rules, clock,
    model and harness untouched; tokens written through commit alone, backed by the model's logits, no mask
    left; same answer every time and in every batch. A method that says `lossless = True` must equal vanilla
    token for token.

    Examples:

        bench check fast_dllm

        bench check ./mine.py --limit 16 --set width=4

        bench check d2f --model Dream-org/Dream-v0-Base-7B --limit 2
    """
    from harness.conformance.check import check_method, open_method
    from harness.engine.opening import Weights, open_engine

    entry, source, heard = open_method(method)
    opened = open_engine(
        entry, Weights(model, adapter, dtype=dtype, device=device, family=family), parse_pairs(settings or [])
    )
    loaded, chosen = opened.loaded, opened.generator.settings
    reference = load_method(REFERENCE) if loaded.spec.mask_id is not None else None
    prompts = sample_prompts(loaded, limit, SUITES)
    checks = check_method(entry, loaded, chosen, prompts, source=source, opened=heard, reference=reference)
    _show(f"{entry.name} on {model}, {len(prompts)} prompts", checks)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def sample_prompts(loaded: Loaded, limit: int, suites: Sequence[str], seed: int = 5) -> list[list[int]]:
    """``limit`` prompts of different length: of the suites in turn, or random ids where there is no
    tokenizer.
    """
    import torch

    if loaded.tokenizer is None:
        rng = torch.Generator().manual_seed(seed)
        special = {*loaded.spec.eos_ids, loaded.spec.mask_id, loaded.spec.bos_id, loaded.spec.pad_id}
        plain = [token for token in range(loaded.spec.vocab_size) if token not in special]
        lengths = [3 + 7 * k % 23 for k in range(limit)]
        return [
            [plain[k] for k in torch.randint(len(plain), (length,), generator=rng).tolist()]
            for length in lengths
        ]

    sources = [load_suite(name) for name in suites]
    share = -(-limit // len(sources))
    texts = [[one.prompt(doc) for _, doc in one.docs(share)] for one in sources]
    return [
        encode(loaded.tokenizer, text, loaded.add_bos) for group in zip(*texts, strict=True) for text in group
    ][:limit]


def _show(title: str, checks: Sequence[AuditCheck]) -> None:

    table = Table("check", "result", "what was found", title=title)
    for check in checks:
        found = "" if check.passed else in_console(check.detail)
        table.add_row(check.name, "[green]passed[/green]" if check.passed else "[red]FAILED[/red]", found)
    console = Console(width=columns(160))
    console.print(table)
    failed = [check.name for check in checks if not check.passed]
    console.print(
        f"{len(checks) - len(failed)} of {len(checks)} checks passed"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
