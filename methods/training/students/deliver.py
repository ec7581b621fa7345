"""What a finished student leaves behind: adapter or checkpoint, card.json with settings and hashes, README.md
with figures.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file

from harness.model.checkpoint import model_hash
from harness.model.load import tensors
from harness.model.recognise import open_family
from harness.records.outside import read_json
from methods.training.export import data_hash, save_card, save_weights
from methods.training.options import TrainingError, plain
from methods.training.students.student import Student
from suites.generators.frozen import DATA


def deliver(student: Student[Any], seconds: float, figures: Mapping[str, float]) -> None:
    """Write the student as it computes now."""
    folder = student.options.output
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(student.net, PeftModel):
        save_adapter(student.net, folder, student.options.model)
    else:
        save_checkpoint(student, folder)
    card = {
        "method": student.method,
        "model": student.options.model,
        "model_hash": model_hash(student.options.model),
        "settings": {
            name: value for name, value in plain(student.options).items() if name not in ("output", "work")
        },
        "data": student.data.facts,
        "frozen_sets": data_hash(DATA),
        "seconds": round(seconds, 1),
        "ranks": student.ranks.count,
        "validation": dict(figures),
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1, default=str) + "\n")
    kind = "adapter (PEFT LoRA)" if isinstance(student.net, PeftModel) else "all weights"
    save_card(
        folder,
        folder.name,
        f"{student.method} student of {student.options.model}: {kind}.",
        figures,
        facts(card, student),
    )


def facts(card: Mapping[str, Any], student: Student[Any]) -> dict[str, Any]:
    """Rows of the README's table."""
    options, data = student.options, card["data"]
    size = (
        "all weights"
        if options.rank == 0
        else f"rank {options.rank}, alpha {options.alpha} on {', '.join(options.targets)}"
    )
    return {
        "command": f"`bench train {student.method}`, all settings in card.json",
        "base": f"{options.model} ({card['model_hash']})",
        "seed": options.seed,
        "data": f"{data['source']}, {data['rows']} rows"
        + (f" ({data['sha256']})" if "sha256" in data else ""),
        "steps": f"{options.schedule.steps} of {options.tokens * options.accumulate} tokens, AdamW "
        f"{options.lr}",
        "weights": size,
        "wall time": f"{card['seconds'] / 60:.1f} min, {student.device.type}, {options.threads} thread(s), "
        f"{options.precision}, {card['ranks']} rank(s)",
        "hash of the frozen sets": card["frozen_sets"],
    }


def save_adapter(net: PeftModel, folder: Path, base: str) -> None:
    """adapter_config.json and bfloat16 weights of the adapter "default"."""
    net.peft_config["default"].base_model_name_or_path = Path(base).name
    net.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
    config = folder / "adapter_config.json"
    values = {**read_json(config, TrainingError), "auto_mapping": None}
    values["target_modules"] = sorted(values["target_modules"])
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    weights = folder / "adapter_model.safetensors"
    save_weights(weights, load_file(str(weights)))
    (folder / "README.md").unlink(missing_ok=True)


def save_checkpoint(student: Student[Any], folder: Path) -> None:
    """The base's folder with the student's weights in place of its own, for ``bench run --model``."""
    names = [name for name, _ in tensors(student.folder)]
    family = open_family(student.model.spec.family)
    if renamed := [name for name in names if family.canonical_name(name) != name]:
        raise TrainingError(
            f"{student.options.model} names its weights otherwise ({renamed[0]}): train an adapter, --set "
            "rank=32"
        )
    for file in student.folder.iterdir():
        if file.is_file() and not file.name.startswith("model") and file.name != "README.md":
            shutil.copy(file, folder / file.name)
    state = student.model.state_dict()
    save_weights(folder / "model.safetensors", {name: state[name] for name in names})
