"""LLaDA and LLaDA-1.5: OLMo's keys and names of weights, predictions in place."""

from __future__ import annotations

from typing import Any

from harness.model.family import Family, ids
from harness.model.spec import ModelSpec

_BLOCK = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
}


class LLaDA(Family):
    """Its keys are those of OLMo's configuration."""

    def spec(self, raw: dict[str, Any]) -> ModelSpec:
        heads = raw["n_heads"]
        kv = raw.get("n_kv_heads") or (1 if raw.get("multi_query_attention") else heads)
        # The released config names only <|endoftext|>; <|eot_id|> ends a chat turn in the same vocabulary.
        eot = [126348] if raw.get("eos_token_id") == 126081 else []
        bias = bool(raw.get("include_bias"))
        return ModelSpec(
            family=self.name,
            vocab_size=raw.get("embedding_size") or raw["vocab_size"],
            hidden_size=raw["d_model"],
            intermediate_size=raw.get("mlp_hidden_size") or raw["d_model"] * raw.get("mlp_ratio", 4),
            num_layers=raw["n_layers"],
            num_heads=heads,
            num_kv_heads=kv,
            head_dim=raw["d_model"] // heads,
            qkv_bias=bias or bool(raw.get("include_qkv_bias")),
            o_bias=bias,
            mlp_bias=bias,
            norm_eps=raw.get("rms_norm_eps", 1e-5),
            rope_theta=float(raw.get("rope_theta", 10000.0)),
            rope_fp32=bool(raw.get("rope_full_precision", True)),
            max_positions=raw.get("max_sequence_length", 1024),
            tie_embeddings=bool(raw.get("weight_tying")),
            bos_id=raw.get("bos_token_id"),
            eos_ids=tuple(dict.fromkeys([*ids(raw.get("eos_token_id")), *eot])),
            pad_id=raw.get("pad_token_id"),
            mask_id=raw.get("mask_token_id"),
            dtype=raw.get("torch_dtype"),
            shift=self.shift,
        )


FAMILY = LLaDA(
    name="llada",
    shift=False,
    weights=(
        (r"model\.transformer\.wte", "model.embed_tokens"),
        (r"model\.transformer\.ln_f", "model.norm"),
        (r"model\.transformer\.ff_out", "lm_head"),
        *(
            (rf"model\.transformer\.blocks\.(\d+)\.{theirs}", rf"model.layers.\1.{ours}")
            for theirs, ours in _BLOCK.items()
        ),
    ),
)
