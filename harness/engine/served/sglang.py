"""SGLang's offline engine, which serves LLaDA2 and SDAR (``Engine`` of its package).

Untested until a GPU has run it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import Field

from harness.decoding.decoder import SamplingConfig
from harness.engine.served.engines import Engine, EngineError, Question, Reply, Server


@dataclass(frozen=True)
class Config(SamplingConfig):
    algorithm: Annotated[str, Field(description="the engine's --dllm-algorithm")] = "LowConfidence"
    threshold: Annotated[
        float | None, Field(ge=0.0, le=1.0, description="written at once above this; default: the engine's")
    ] = None
    edit_threshold: Annotated[
        float | None, Field(ge=0.0, le=1.0, description="revised above this (JointThreshold)")
    ] = None
    block_size: Annotated[
        int | None, Field(gt=0, description="tokens per block; default: the engine's for the model")
    ] = None


class SGLang(Engine):
    name = "sglang"
    summary = "SGLang's offline engine with its diffusion decoding"
    install = "pip install sglang"
    Config: ClassVar[type[Any]] = Config
    dtypes = ("bfloat16", "float16", "float32")

    def start(self, model: str, config: Config, dtype: str, rows: int, seed: int) -> Server:
        package: Any = self.module()
        asked = {name: getattr(config, name) for name in ("threshold", "edit_threshold", "block_size")}
        options = {name: value for name, value in asked.items() if value is not None}
        settings = {"dllm_algorithm_config": _file(options)} if options else {}
        try:
            engine = package.Engine(
                model_path=model,
                dllm_algorithm=config.algorithm,
                dtype=dtype,
                max_running_requests=rows,
                random_seed=seed,
                trust_remote_code=True,
                **settings,
            )
        finally:
            for path in settings.values():
                os.unlink(path)

        def answer(questions: Sequence[Question], new_tokens: int) -> list[Reply]:
            wanted = {"max_new_tokens": new_tokens, **_sampling(config)}
            ids = [list(one.ids) for one in questions]
            return [_reply(one) for one in engine.generate(input_ids=ids, sampling_params=wanted)]

        return Server(answer, engine.shutdown)


def _file(options: dict[str, Any]) -> str:
    """The algorithm's settings as the YAML file that the engine reads while it starts."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(options, file)
    return file.name


def _sampling(config: SamplingConfig) -> dict[str, Any]:
    asked = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    return {name: value for name, value in asked.items() if value is not None}


def _reply(told: dict[str, Any]) -> Reply:
    if "output_ids" not in told:
        raise EngineError("sglang gave no output_ids: install a later version (pip install -U sglang)")
    return Reply(list(told["output_ids"]), told.get("meta_info", {}).get("prompt_tokens"))
