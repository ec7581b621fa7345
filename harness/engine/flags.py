"""Command-line flags of what opens an engine, shared by every command that answers prompts."""

from __future__ import annotations

from typing import Annotated, cast, get_args

import typer

from harness.decoding.settings import SettingError
from harness.records.schema import StopRule

MODEL, DECODING, PROMPTS = "Model", "Decoding", "Prompts"
"""Panels of ``--help`` that these flags stand in."""

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Shipped name (nano, nano-ar), checkpoint folder, or hub id.",
        rich_help_panel=MODEL,
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        help="LoRA folder, student's checkpoint, or hub id; default: the model's known companion if the "
        "method needs one; none: none.",
        rich_help_panel=MODEL,
    ),
]
Family = Annotated[
    str | None,
    typer.Option(
        "--family",
        help="Python file with a model family (FAMILY = Family(...)) that is asked before the known ones.",
        rich_help_panel=MODEL,
    ),
]
NoMerge = Annotated[
    bool,
    typer.Option(
        "--no-merge",
        "--no_merge",
        help="Keep the adapter apart from the weights (slower; as D2F was published).",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:N; default: cuda if there is one.", rich_help_panel=MODEL),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        "--device_map",
        help="auto: spread the blocks over all cards that are seen (CUDA_VISIBLE_DEVICES), for a model "
        "larger than one. Untested until two GPUs have run it. Default: one device.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16, float16; int8, int4: "
        "the blocks' weights in fewer bits (extra quantize), the rest as auto.",
        rich_help_panel=MODEL,
    ),
]
Attention = Annotated[
    str,
    typer.Option(
        "--attention",
        help="auto, sdpa, flash (flash-attn's variable-length kernel on a GPU, extra gpu), flex "
        "(FlexAttention). auto: flash where it is installed and gives what sdpa gives, sdpa for the masks "
        "that it lacks and everywhere else.",
        rich_help_panel=MODEL,
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the layers (torch.compile; CUDA graphs on a GPU). Takes a C++ compiler on a CPU, and "
        "up to minutes at the start.",
        rich_help_panel=MODEL,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Decoder setting KEY=VALUE (repeatable); METHOD.KEY=VALUE for one method. See `bench list`.",
        rich_help_panel=DECODING,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of sampling decoders.", rich_help_panel=DECODING)]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch_size", "--batch-size", "-b", min=1, help="Rows decoded together.", rich_help_panel=DECODING
    ),
]
Continuous = Annotated[
    bool,
    typer.Option(
        "--continuous",
        help="Continuous batching: a row that is done makes room for the next prompt at once; four prompts "
        "per row share a decode call.",
        rich_help_panel=DECODING,
    ),
]
StopRuleOption = Annotated[
    str,
    typer.Option(
        "--stop-rule",
        "--stop_rule",
        help="harness: every method stops at end-of-text and at the suite's stop strings; reference: as the "
        "method was published.",
        rich_help_panel=DECODING,
    ),
]
ChatTemplate = Annotated[
    bool | None,
    typer.Option(
        "--apply_chat_template/--no_chat_template",
        "--apply-chat-template/--no-chat-template",
        "--chat_template",
        help="Put prompts into the chat template of each method's own checkpoint (instruct models); default: "
        "a preset's way, else not.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
Multiturn = Annotated[
    bool | None,
    typer.Option(
        "--fewshot_as_multiturn/--no_fewshot_as_multiturn",
        "--fewshot-as-multiturn/--no-fewshot-as-multiturn",
        help="With the chat template: solved examples as turns of their own, or in one turn with the "
        "question; default: turns.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="published: settings, canvas, examples and prompt format of the method's published evaluation "
        "of this model on each suite "
        "(methods/models/presets.yaml); published:PROJECT: of one project. Explicit flags win. The stop rule "
        "stays --stop-rule's.",
        rich_help_panel=DECODING,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="lmdeploy or sglang: let this engine decode by itself instead of a method, for the models that "
        "it serves (SDAR, LLaDA2). Clocked and graded; forwards are not measured. Its settings: --set. "
        "Untested until a GPU has run it. Default: none, the harness' own loop.",
        show_default=False,
        rich_help_panel=DECODING,
    ),
]
Isolate = Annotated[
    bool | None,
    typer.Option(
        "--isolate/--no-isolate",
        help="Run decoders in a jail that can only ask for forward passes; default: those from a file or "
        "another package. Without it "
        "a run says so.",
        show_default=False,
        rich_help_panel=DECODING,
    ),
]


def stop_rule_of(text: str) -> StopRule:
    """The stop rule that --stop-rule names; SettingError for any other text."""
    if text not in get_args(StopRule):
        raise SettingError(f"--stop-rule {text} is unknown; use {' or '.join(get_args(StopRule))}")
    return cast("StopRule", text)


def check_engine(
    engine: str | None, methods: list[str] | None, preset: str | None, isolate: bool | None, apart: bool
) -> None:
    """SettingError for flags that mean nothing to an engine that decodes by itself."""
    if engine is None:
        return
    given = {"--method": methods, "--preset": preset, "--isolate": isolate is not None, "--no-merge": apart}
    if unfit := [flag for flag, value in given.items() if value]:
        raise SettingError(
            f"--engine {engine} decodes by itself: leave {', '.join(unfit)} out (its own settings: --set)"
        )
