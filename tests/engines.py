"""Stand-ins for engines that need a GPU: their published Python interface and no other name, answering with
nano and d2f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import yaml

from harness.engine.generator import Request
from harness.engine.opening import open_engine


class Spoken:
    """What a stand-in was asked, for tests to look at."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.answers: list[list[int]] = []
        self.closed = 0

    def ids(self, prompts: Sequence[Any], new_tokens: int) -> list[list[int]]:
        generator = open_engine("d2f").generator
        (batch,) = generator.run([Request(prompt, new_tokens) for prompt in prompts], len(prompts))
        found = [row.decoded.output[: row.useful] for row in batch if row.decoded is not None]
        self.answers += found
        return found


@dataclass
class PytorchEngineConfig:
    dtype: str = "auto"
    max_batch_size: int | None = None
    dllm_block_length: int | None = None
    dllm_unmasking_strategy: str = "low_confidence_dynamic"
    dllm_denoising_steps: int | None = None
    dllm_confidence_threshold: float = 0.85

    def __post_init__(self) -> None:
        assert self.dtype in ("auto", "float16", "bfloat16")


@dataclass
class GenerationConfig:
    max_new_tokens: int = 512
    do_sample: bool = False
    top_p: float = 1.0
    top_k: int = 50
    temperature: float = 0.8
    random_seed: int | None = None


def lmdeploy(spoken: Spoken, prompt_more: int = 0) -> Any:
    """LMDeploy's package; it reads ``prompt_more`` tokens more than were written."""

    class Pipe:
        def __init__(self, model_path: str, backend_config: PytorchEngineConfig) -> None:
            spoken.started.append({"model": model_path, **vars(backend_config)})

        def __call__(self, prompts: list[str], gen_config: list[GenerationConfig], **more: Any) -> list[Any]:
            assert more == {"do_preprocess": False}
            spoken.calls.append({"prompts": prompts, **vars(gen_config[0])})
            encode = open_engine("d2f").generator.prompt_ids
            return [
                SimpleNamespace(
                    text="",
                    token_ids=ids,
                    generate_token_len=len(ids),
                    input_token_len=len(encode(prompt)) + prompt_more,
                    finish_reason="stop",
                )
                for prompt, ids in zip(
                    prompts, spoken.ids(prompts, gen_config[0].max_new_tokens), strict=True
                )
            ]

        def close(self) -> None:
            spoken.closed += 1

    return SimpleNamespace(
        __version__="0.10.2",
        pipeline=Pipe,
        PytorchEngineConfig=PytorchEngineConfig,
        GenerationConfig=GenerationConfig,
    )


def sglang(spoken: Spoken, with_ids: bool = True) -> Any:
    """SGLang's package; early versions gave no ids."""

    class Engine:
        def __init__(self, *, dllm_algorithm_config: str | None = None, **options: Any) -> None:
            if dllm_algorithm_config is not None:
                with open(dllm_algorithm_config) as file:
                    options["config"] = yaml.safe_load(file)
            spoken.started.append(options)

        def generate(self, *, input_ids: list[list[int]], sampling_params: dict[str, Any]) -> list[Any]:
            spoken.calls.append({"prompts": input_ids, **sampling_params})
            return [
                {"text": "", "meta_info": {"completion_tokens": len(ids), "prompt_tokens": len(prompt)}}
                | ({"output_ids": ids} if with_ids else {})
                for prompt, ids in zip(
                    input_ids, spoken.ids(input_ids, sampling_params["max_new_tokens"]), strict=True
                )
            ]

        def shutdown(self) -> None:
            spoken.closed += 1

    return SimpleNamespace(__version__="0.5.9", Engine=Engine)
