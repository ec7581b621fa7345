"""Checkpoints, adapters and tokenizers that are broken or lie: one line each that names the file, no hang."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import UserError
from harness.model.adapter import Adapter
from harness.model.catalog import base_of, location
from harness.model.checkpoint import adds_bos, check_adapter, model_hash
from harness.model.load import load_transformer, stored_numbers, tensors, weights_hash
from harness.model.presets import PresetError, parse_groups
from harness.model.recognise import read_spec
from harness.model.spec import CheckpointError
from harness.model.tokenizer import load_tokenizer, vocabulary_hash
from tests.conftest import GOLDEN
from tests.helpers import CPU
from tests.tokenizers_tiny import DIFFUCODER, with_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "dream_tiny", tmp_path / "model"))


def refused(work: Callable[[], Any], kind: type[UserError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def config(folder: Path, **changed: Any) -> None:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, **changed}))


def sharded(folder: Path, names: tuple[str, str] = ("model-00001-of-00002", "model-00002-of-00002")) -> None:
    """The same weights in two files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    table = {name: f"{names[place % 2]}.safetensors" for place, name in enumerate(weights)}
    for file in names:
        held = {name: weights[name] for name in weights if table[name] == f"{file}.safetensors"}
        save_file(held, folder / f"{file}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def test_the_hash_covers_files_of_any_name_that_the_index_names(folder: Path) -> None:
    """Two models differed in a file whose name no pattern covers, and had one hash."""
    sharded(folder, ("part-one", "part-two"))
    before = weights_hash(folder)
    file = folder / "part-two.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    assert weights_hash(folder) != before


def test_the_hash_leaves_out_files_that_are_not_loaded(folder: Path) -> None:
    sharded(folder)
    before, numbers = weights_hash(folder), stored_numbers(folder)
    save_file({"other": torch.ones(3)}, folder / "model-of-somebody.safetensors")
    save_file({"other": torch.ones(3)}, folder / "consolidated.safetensors")
    assert (weights_hash(folder), stored_numbers(folder)) == (before, numbers)


@pytest.mark.parametrize("work", [weights_hash, stored_numbers, lambda folder: list(tensors(folder))])
@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "{absolute}", "sub/../../other/model.safetensors"]
)
def test_an_index_stays_inside_its_folder(folder: Path, name: str, work: Callable[[Path], Any]) -> None:
    outside = Path(shutil.copytree(folder, folder.parent / "other")) / "model.safetensors"
    named = name.format(absolute=outside)
    (folder / "sub").mkdir()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": named}})
    )
    text = refused(lambda: work(folder))
    assert "model.safetensors.index.json" in text
    assert "outside" in text


INDICES = {
    "cut short": '{"weight_map": {"lm_head.we',
    "no map": "{}",
    "a list": "[]",
    "empty map": '{"weight_map": {}}',
    "no name": '{"weight_map": {"lm_head.weight": 5}}',
    "half a character": '{"weight_map": {"lm_head.weight": "\\ud800"}}',
    "nul": '{"weight_map": {"lm_head.weight": "a\\u0000b"}}',
    "nested": '{"weight_map": ' + "[" * 100_000 + "]" * 100_000 + "}",
}


@pytest.mark.parametrize("case", INDICES)
def test_a_broken_index(folder: Path, case: str) -> None:
    (folder / "model.safetensors.index.json").write_text(INDICES[case])
    assert "model.safetensors.index.json" in refused(lambda: weights_hash(folder))
    assert "model.safetensors.index.json" in refused(lambda: list(tensors(folder)))


def test_a_weight_that_two_files_have(folder: Path) -> None:
    sharded(folder)
    save_file(
        load_file(folder / "model-00001-of-00002.safetensors"), folder / "model-00002-of-00002.safetensors"
    )
    text = refused(lambda: load_transformer(folder, torch.float32, CPU))
    assert "model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors" in text


def _header(folder: Path, header: bytes, length: int | None = None) -> None:
    size = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + header)


WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "cut short": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-100]
    ),
    "a page of a web server": lambda folder: (folder / "model.safetensors").write_text(
        "<html>not found</html>" * 9
    ),
    "a header without end": lambda folder: _header(folder, b"{}", 1 << 62),
    "a header that is no JSON": lambda folder: _header(folder, b"{'a': 1}"),
    "overlapping": lambda folder: _header(
        folder, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000]}}'
    ),
    "a shape without end": lambda folder: _header(
        folder, b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}'
    ),
    "another type": lambda folder: _header(folder, b'{"a":{"dtype":"F99","shape":[0],"data_offsets":[0,0]}}'),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_broken_safetensors(folder: Path, case: str) -> None:
    WEIGHTS[case](folder)
    assert "model.safetensors" in refused(lambda: load_transformer(folder, torch.float32, CPU))
    assert "model.safetensors" in refused(lambda: stored_numbers(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, folder / "model.safetensors")
    text = refused(lambda: load_transformer(folder, torch.float32, CPU))
    assert "model.layers.1.mlp.up_proj.weight" in text
    assert "not finite" in text


def test_weights_beyond_a_type_or_summing_beyond_it(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:2] = 3e38
    save_file(weights, folder / "model.safetensors")
    load_transformer(folder, torch.float32, CPU)
    text = refused(lambda: load_transformer(folder, torch.float16, CPU))
    assert "model.norm.weight" in text
    assert "--dtype" in text


def test_quantised_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors")
    assert "quantised" in refused(lambda: load_transformer(folder, torch.float32, CPU))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe{}", b"{", b"[]", b"null", b"[" * 200_000, b'{"a": NaN}', b"7" * 9999]
)
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "added_tokens.json"]
)
def test_a_file_that_is_no_json_object(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in refused(lambda: read_spec(folder))


def test_a_folder_or_a_device_in_the_place_of_a_file(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").mkdir()
    assert "generation_config.json is no regular file" in refused(lambda: read_spec(folder))
    (folder / "generation_config.json").rmdir()
    (folder / "generation_config.json").symlink_to("/dev/zero")
    assert "generation_config.json is no regular file" in refused(lambda: read_spec(folder))


VALUES: dict[str, Any] = {
    "num_hidden_layers": [10**9, 0, -2, 2.5, "2", True, [], 10**400],
    "vocab_size": [10**12, 0, "many"],
    "hidden_size": [10**12, 0, {}],
    "num_attention_heads": [0, "4", 10**9],
    "num_key_value_heads": [3, -1],
    "head_dim": [7, 0],
    "max_position_embeddings": ["2048"],
    "rms_norm_eps": ["tiny", -1.0, 1e999, 10**400],
    "rope_theta": [0, "10000", [1], 1e999],
    "rope_scaling": [
        5,
        "yarn",
        {"rope_type": "nonsense"},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": "x"},
    ],
    "mask_token_id": [10**9, -1, "mask", 1.5],
    "bos_token_id": ["<s>"],
    "eos_token_id": ["</s>", [1, "a"], {}, [[1]]],
    "tie_word_embeddings": ["no"],
    "architectures": [5, [5]],
    "model_type": [5, None, ["Dream"]],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in VALUES.items() for value in values]
)
def test_a_configuration_that_no_model_can_have(folder: Path, key: str, value: Any) -> None:
    config(folder, **{key: value})
    text = refused(lambda: load_transformer(folder, torch.float32, CPU))
    assert key in text or "config.json" in text


@pytest.mark.parametrize(
    "name", ["llada_tiny", "sdar_tiny", "a2d_qwen3_tiny", "fast_dllm_v2_tiny", "qwen3_tiny"]
)
def test_a_configuration_with_any_key_of_another_kind(tmp_path: Path, name: str) -> None:
    """Each key in turn becomes each of these; a model is read, or refused."""
    told = json.loads((GOLDEN / name / "config.json").read_text())
    for key in told:
        for value in ("", "x", -1, 0, 10**9, 1e300, [], {}, [None], {"a": 1}, None, True):
            (tmp_path / "config.json").write_text(json.dumps({**told, key: value}))
            with suppress(CheckpointError):
                read_spec(tmp_path)


TOKENIZERS: dict[str, tuple[str, Any]] = {
    "added as a list": ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
    "an id that is none": ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}),
    "an entry that is none": ("tokenizer_config.json", {"added_tokens_decoder": {"1": "a"}}),
    "a role that is a number": ("tokenizer_config.json", {"eos_token": 5}),
    "a role without text": ("tokenizer_config.json", {"mask_token": {"lstrip": False}}),
    "ids that are none": ("added_tokens.json", {"<|mask|>": "many"}),
    "half a character": ("added_tokens.json", '{"\\ud800": 1}'),
    "words without ids": ("tokenizer.json", {"model": {"vocab": {"a": "b"}}}),
    "words that are a number": ("tokenizer.json", {"model": {"vocab": 5}}),
    "a model that is a list": ("tokenizer.json", {"model": []}),
    "added that are none": ("tokenizer.json", {"added_tokens": [5], "model": {}}),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_broken_tokenizer(tmp_path: Path, case: str) -> None:
    folder = with_tokenizer(tmp_path / "model", DIFFUCODER, eos_token="<|endoftext|>")
    name, content = TOKENIZERS[case]
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert name in refused(lambda: read_spec(folder))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "tokenizer.json is no valid JSON"),
        ("{}", "cannot be read"),
        ('{"model": {}}', "cannot be read"),
        ('{"version": "1.0", "model": {"type": "BPE"}}', "cannot be read"),
        ("[" * 5000, "tokenizer.json is no valid JSON"),
    ],
)
def test_a_tokenizer_that_the_library_refuses(tmp_path: Path, content: str, told: str) -> None:
    folder = with_tokenizer(tmp_path / "model", DIFFUCODER, eos_token="<|endoftext|>")
    (folder / "tokenizer.json").write_text(content)
    message = refused(lambda: load_tokenizer(folder))
    assert str(folder) in message
    assert told in message


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json"]
)
def test_an_id_that_no_vocabulary_reaches(tmp_path: Path, name: str) -> None:
    folder = with_tokenizer(tmp_path / "model", DIFFUCODER, eos_token="<|endoftext|>")
    path = folder / name
    told = json.loads(path.read_text()) if path.exists() else {}
    if name == "tokenizer.json":
        told["added_tokens"][-1]["id"] = 10**9
    elif name == "tokenizer_config.json":
        told["added_tokens_decoder"] = {str(10**9): {"content": "far"}}
    else:
        told["far"] = 10**9
    path.write_text(json.dumps(told))
    assert f"a token with id {10**9}" in refused(lambda: load_tokenizer(folder))


def test_a_flag_for_beginnings_that_is_none(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": "perhaps"}')
    assert "add_bos_token" in refused(lambda: adds_bos("unlisted", folder))


def test_a_vocabulary_without_ids(folder: Path) -> None:
    (folder / "vocab.json").write_text('{"a": "b", "c": 1}')
    assert "vocab.json" in refused(lambda: vocabulary_hash(folder))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "dream_lora_tiny", tmp_path / "adapter"))


def adapted(adapter: Path, **changed: Any) -> None:
    told = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**told, **changed}))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{", b"5", b"[" * 200_000])
def test_an_adapter_without_configuration(adapter: Path, content: bytes) -> None:
    (adapter / "adapter_config.json").write_bytes(content)
    for work in (
        lambda: Adapter(adapter),
        lambda: base_of(str(adapter)),
        lambda: check_adapter(adapter, "nano"),
    ):
        assert "adapter_config.json" in refused(work)


@pytest.mark.parametrize(
    "changed",
    [
        {"r": 0},
        {"r": "8"},
        {"r": None},
        {"r": -1},
        {"r": 1.5},
        {"lora_alpha": "x"},
        {"lora_alpha": None},
        {"r": True},
    ],
)
def test_an_adapter_without_scale(adapter: Path, changed: dict[str, Any]) -> None:
    adapted(adapter, **changed)
    text = refused(lambda: Adapter(adapter))
    assert "adapter_config.json" in text
    assert next(iter(changed)) in text


@pytest.mark.parametrize("base", [None, 5, "", [], "a\0b"])
def test_an_adapter_without_base(adapter: Path, base: Any) -> None:
    adapted(adapter, base_model_name_or_path=base)
    assert "base_model_name_or_path" in refused(lambda: location(str(adapter)))


def test_an_adapter_that_is_its_own_base(adapter: Path, tmp_path: Path) -> None:
    adapted(adapter, base_model_name_or_path=str(adapter))
    for work in (location, model_hash, base_of):
        assert "base_model_name_or_path" in refused(lambda work=work: work(str(adapter)))
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    adapted(adapter, base_model_name_or_path=str(other))
    assert "an adapter of itself" in refused(lambda: location(str(adapter)))


def test_an_adapter_that_is_not_finite_or_no_pair(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_A" in name)
    save_file({**weights, name: torch.full_like(weights[name], float("nan"))}, file)
    assert "not finite" in refused(lambda: Adapter(adapter))
    save_file({**weights, name: torch.ones(3)}, file)
    model = load_transformer(GOLDEN / "dream_tiny", torch.float32, CPU)
    assert "does not fit" in refused(lambda: Adapter(adapter).merge(model))


def test_a_card_that_is_none(adapter: Path) -> None:
    (adapter / "card.json").write_text("[]")
    assert "card.json" in refused(lambda: check_adapter(adapter, "nano"))


PRESETS = {
    "a tag that runs a program": "!!python/object/apply:os.system ['true']",
    "a tag that names a type": "- !!python/name:os.system",
    "not a list": "a: 1",
    "half a character": '- "\\ud800"',
    "a tag that does not fit": "- !!bool perhaps",
    "a time that does not fit": "- !!timestamp x",
    "a cycle": "&a [*a]",
    "aliases that multiply": "a0: &a0 [x]\n"
    + "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30)),
    "a number of a million digits": "- 1" + ":1" * 300_000,
    "nested": "[" * 3000,
}


@pytest.mark.parametrize("case", PRESETS)
def test_broken_presets(case: str) -> None:
    assert "presets.yaml" in refused(lambda: parse_groups(PRESETS[case], "presets.yaml"), PresetError)
