"""The lm-eval model: one class serves every (backbone, decoder).

    bench lm-eval run --model dllm --model_args pretrained=nano,method=d2f --tasks nano-gsm

Decoder settings are model arguments (recorded by lm-eval) and may be overridden per request through
``--gen_kwargs``. Counts of the meter land in the results (``config.throughput``) and, with ``bench lm-eval``,
in every logged sample.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

# Importing the package's own models first: lm-eval registers them only while its registry is empty.
import lm_eval.models  # noqa: F401
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from harness.decoding.settings import SettingError, settings_of
from harness.engine.generator import Generation, Request
from harness.engine.opening import Weights, Wish, open_engine
from harness.errors import UserError
from harness.lm_eval import likelihood
from harness.model.text import chat_text
from harness.records.schema import Measured, StopRule

log = logging.getLogger(__name__)

_GENERATION_KEYS = {"until", "max_gen_toks", "do_sample", "temperature", "blocks"}


# The model of this process that was built last; `bench lm-eval` reads its counts.
LATEST: list[DiffusionLM] = []


class LmEvalError(UserError, ValueError):
    """Something lm-eval offers that would make a decoder benchmark lie."""


class DiffusionLM(TemplateLM):
    """``pretrained`` is a shipped name, folder or hub id; every other unknown argument is a decoder
    setting.
    """

    backend = "causal"

    def __init__(
        self,
        pretrained: str = "nano",
        method: str = "vanilla",
        adapter: str | None = None,
        merge: bool | str = True,
        dtype: str = "auto",
        device: str | None = None,
        attention: str = "auto",
        compile: bool | str = False,  # the name of the command line's flag
        family: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        seed: int = 0,
        stop_rule: StopRule = "harness",
        mc_num: int = 128,
        mc_batch_size: int = 32,
        add_bos_token: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self._join_ranks()
        if self._accelerator is not None and self._accelerator.device.type == "cuda":
            device = str(self._accelerator.device)
        merged = str(merge).lower() != "false"
        compiled = str(compile).lower() == "true"
        weights = Weights(pretrained, adapter, merged, dtype, device, family, attention, compiled)
        self.generator = open_engine(
            Wish(method, settings), weights, seed=int(seed), stop_rule=stop_rule
        ).generator
        if add_bos_token is not None:
            self.generator.loaded = replace(self.generator.loaded, add_bos=bool(add_bos_token))
        self._device = self.generator.loaded.backbone.device
        self.batch_size = _batch_size(batch_size)
        self.mc_num, self.mc_batch_size, self.seed = int(mc_num), int(mc_batch_size), int(seed)
        self.asked = tuple(settings)
        self.counts: dict[tuple[str, int], list[dict[str, Any]]] = {}
        LATEST[:] = [self]

    def _join_ranks(self) -> None:
        self._accelerator = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
            self._rank, self._world_size = self._accelerator.process_index, self._accelerator.num_processes

    def leave_ranks(self) -> None:
        """End the group of ranks: a process that exits with its threads running may abort (gloo)."""
        if self._accelerator is not None:
            self._accelerator.end_training()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers in the order of ``requests``; stop strings, length and settings are each request's own."""
        asked = [self._request(*instance.args) for instance in requests]
        order = sorted(
            range(len(asked)), key=lambda k: (asked[k].canvas, str(asked[k].settings), asked[k].stops, k)
        )
        answers: dict[int, str] = {}
        progress = tqdm(
            total=len(asked),
            desc=f"{self.generator.decoder.name} decoding",
            disable=disable_tqdm or self.rank != 0,
        )
        position = 0
        for batch in self.generator.run([asked[k] for k in order], self.batch_size):
            for generation in batch:
                index = order[position]
                position += 1
                answers[index] = generation.text or ""
                self._note(requests[index], generation)
            progress.update(len(batch))
        progress.close()
        self._share_counts()
        return [answers[k] for k in range(len(asked))]

    def _request(self, context: str, gen_kwargs: dict[str, Any]) -> Request:
        # 0 stands for a task that names no length; the model's own then applies.
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(gen_kwargs, default_max_gen_toks=0))
        settings = {key: value for key, value in kwargs.items() if key not in _GENERATION_KEYS}
        if kwargs.get("do_sample") and kwargs.get("temperature"):
            settings["temperature"] = kwargs["temperature"]
        blocks = tuple(kwargs.get("blocks", {}).values())
        return Request(
            context,
            self.generator.canvas(kwargs["max_gen_toks"] or None, blocks),
            tuple(kwargs["until"]),
            settings,
            blocks=blocks,
        )

    def _note(self, instance: Instance, generation: Generation) -> None:
        self.cache_hook.add_partial("generate_until", instance.args, generation.text or "")
        if generation.error is not None:
            log.error("document %s: %s", instance.doc_id, generation.error)
        counts = {"useful": generation.useful, "status": generation.status}
        if generation.decoded is not None:
            counts |= generation.decoded.model_dump(
                include={name for name in Measured.model_fields if name != "forwards"}
            )
        seen = self.counts.setdefault((instance.task_name or "", instance.doc_id or 0), [])
        # Ranks are padded by repeating a request; only as many answers as the task asked for count.
        if len(seen) < (instance.repeats or 1):
            seen.append(counts)

    def _share_counts(self) -> None:
        """Bring the counts of all ranks together on the first, where results are written."""
        for other in (self.gather_object(self.counts) or [])[1:]:
            self.counts.update(other)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise LmEvalError(
            "rolling log-likelihood is not defined for these decoders: use tasks that generate or compare "
            "answers"
        )

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Exact for causal checkpoints; for masked diffusion the Monte Carlo bound with ``mc_num`` draws."""
        if self.asked:
            names = ", ".join(sorted(self.asked))
            raise LmEvalError(
                f"{names}: log-likelihood tasks compare given answers and no decoder runs; leave it out of "
                "--model_args"
            )
        backbone = self.generator.loaded.backbone
        if backbone.spec.uniform_state:
            raise LmEvalError("log-likelihood needs a masked or causal model; this one is uniform-state")
        results: list[tuple[float, bool]] = []
        size = max(int(self.batch_size), self.mc_batch_size)
        progress = tqdm(total=len(requests), desc="log-likelihood", disable=disable_tqdm)
        for first in range(0, len(requests), size):
            part = requests[first : first + size]
            pairs = [(list(context) or [self.prefix_token_id], list(target)) for _, context, target in part]
            if backbone.spec.diffusion:
                found = likelihood.masked_batch(backbone, pairs, self.mc_num, self.mc_batch_size, self.seed)
            else:
                found = likelihood.causal_batch(backbone, pairs, int(self.batch_size))
            for (pair, _, _), answer in zip(part, found, strict=True):
                self.cache_hook.add_partial("loglikelihood", pair, answer)
            results += found
            progress.update(len(part))
        progress.close()
        return results

    @property
    def eot_token_id(self) -> int:
        return self.generator.loaded.spec.eos_ids[0]

    @property
    def prefix_token_id(self) -> int:
        bos = self.generator.loaded.spec.bos_id
        return bos if bos is not None else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.generator.prompt_ids(string)

    @property
    def tokenizer(self) -> Any:
        return self.generator.loaded.tokenizer

    @property
    def tokenizer_name(self) -> str:
        return f"{self.generator.loaded.checkpoint}-{self.generator.loaded.tokenizer_hash}".replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return chat_text(self.tokenizer, chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return (self.tokenizer.chat_template or "") if chat_template else None

    def set_cache_hook(self, cache_hook: Any) -> None:
        if getattr(cache_hook, "dbdict", None) is not None:
            raise LmEvalError(
                "--use_cache is refused: lm-eval keys it by prompt and generation arguments only, so answers "
                "of another "
                "decoder or setting would be returned; `bench run` resumes interrupted runs instead"
            )
        super().set_cache_hook(cache_hook)

    def all_gather(self, tensor: Any) -> Any:
        return tensor if self._accelerator is None else self._accelerator.gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> Any:
        if self._accelerator is None:
            return [obj]
        gathered: list[Any] | None = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object(obj, gathered, dst=dst)
        return gathered

    def barrier(self) -> None:
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    def get_model_info(self) -> dict[str, Any]:
        """Merged into lm-eval's results: what ran, and the meter's totals."""
        loaded = self.generator.loaded
        return {
            "decoder": {
                "method": self.generator.decoder.name,
                "settings": settings_of(self.generator.config),
            },
            "checkpoint": {
                "name": loaded.checkpoint,
                "weights_hash": loaded.weights_hash,
                "adapter": loaded.adapter,
            },
            "throughput": throughput([one for seen in self.counts.values() for one in seen]),
        }


register_model("dllm")(DiffusionLM)


def throughput(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Totals of the meter over all ranks (seconds add up, so TPS is per device); rates are null where nothing
    was decoded.
    """
    rows = [counts for counts in answers if "nfe" in counts]
    useful = sum(counts["useful"] or 0 for counts in rows)
    seconds, nfe = sum(counts["time_s"] for counts in rows), sum(counts["nfe"] for counts in rows)
    return {
        "samples": len(answers),
        "errors": sum(counts["status"] != "ok" for counts in answers),
        "useful_tokens": useful,
        "decode_seconds": seconds,
        "nfe": nfe,
        "tps": useful / seconds if seconds else None,
        "tpf": useful / nfe if nfe else None,
    }


def merge_counts(lm: DiffusionLM, task: str, samples: list[dict[str, Any]]) -> None:
    """Put the meter's counts into lm-eval's logged samples of one task, in place."""
    for sample in samples:
        counts = lm.counts.get((task, sample["doc_id"]))
        if counts is not None:
            sample["dllm_bench"] = counts[0] if len(counts) == 1 else counts


def _batch_size(value: int | str) -> int:
    if isinstance(value, str) and not value.isdigit():
        raise SettingError(
            f"--batch_size {value} is not supported: give a number (speed figures need a fixed batch size)"
        )
    if int(value) < 1:
        raise SettingError("--batch_size must be at least 1")
    return int(value)
