"""LMDeploy's PyTorch engine, which serves SDAR and other block-diffusion models (its ``pipeline``).

Untested until a GPU has run it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.decoding.decoder import SamplingConfig
from harness.engine.served.engines import Engine, Question, Reply, Server

Unmasking = Literal["low_confidence_dynamic", "low_confidence_static", "sequential"]


@dataclass(frozen=True)
class Config(SamplingConfig):
    block_length: Annotated[
        int | None, Field(gt=0, description="tokens per block; default: the engine's for the model")
    ] = None
    denoising_steps: Annotated[
        int | None, Field(gt=0, description="steps per block; default: the engine's")
    ] = None
    confidence_threshold: Annotated[
        float, Field(gt=0.0, le=1.0, description="written at once above this (low_confidence_dynamic)")
    ] = 0.85
    unmasking_strategy: Annotated[Unmasking, Field(description="which positions a step writes")] = (
        "low_confidence_dynamic"
    )


class LMDeploy(Engine):
    name = "lmdeploy"
    summary = "LMDeploy's PyTorch engine with its block-diffusion decoding"
    install = "pip install lmdeploy"
    Config: ClassVar[type[Any]] = Config

    def start(self, model: str, config: Config, dtype: str, rows: int, seed: int) -> Server:
        package: Any = self.module()
        asked = {
            "dllm_block_length": config.block_length,
            "dllm_denoising_steps": config.denoising_steps,
            "dllm_confidence_threshold": config.confidence_threshold,
            "dllm_unmasking_strategy": config.unmasking_strategy,
        }
        chosen = {name: value for name, value in asked.items() if value is not None}
        pipe = package.pipeline(
            model, backend_config=package.PytorchEngineConfig(dtype=dtype, max_batch_size=rows, **chosen)
        )

        def answer(questions: Sequence[Question], new_tokens: int) -> list[Reply]:
            wanted = [
                package.GenerationConfig(max_new_tokens=new_tokens, random_seed=one.seed, **_sampling(config))
                for one in questions
            ]
            # The prompt is complete: without this the engine would put it into a chat template of its own.
            found = pipe([one.text for one in questions], gen_config=wanted, do_preprocess=False)
            return [Reply(list(one.token_ids), one.input_token_len) for one in found]

        return Server(answer, getattr(pipe, "close", lambda: None))


def _sampling(config: SamplingConfig) -> dict[str, Any]:
    """Without ``do_sample`` the engine takes the likeliest token and reads none of the rest."""
    if not config.temperature:
        return {"do_sample": False}
    asked = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    return {"do_sample": True} | {name: value for name, value in asked.items() if value is not None}
