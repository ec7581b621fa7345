"""A small uniform-state denoiser: the harness' transformer, bidirectional and in place, that also reads soft
tokens.

The noise level is a token: ids K .. K + levels - 1 of the vocabulary stand for alpha, and one of them takes
the place of the first prompt token. So the network needs no input that a backbone does not have. The level
matters: on the word task (2 layers, 1500 steps, one seed) the bound is 0.78 nats per token without it, 0.69
with an added embedding of the level and 0.65 with the token; standard error 0.01.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.model.spec import ModelSpec
from harness.model.transformer import Transformer


class SoftEmbedding(nn.Embedding):
    """An embedding that also takes probabilities [..., vocab]: the mixture of the rows. Its weights are a
    plain embedding's.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.is_floating_point():
            return input.to(self.weight.dtype) @ self.weight
        return F.embedding(input, self.weight)


def denoiser_spec(
    vocab: int, hidden: int = 64, layers: int = 2, heads: int = 4, levels: int = 64
) -> ModelSpec:
    """Shape of a uniform-state model over ``vocab`` data tokens and ``levels`` noise levels."""
    return ModelSpec(
        family="uniform",
        vocab_size=vocab + levels,
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        qkv_bias=False,
        noise_levels=levels,
        shift=False,
        uniform_state=True,
    )


def level_token(alpha: Tensor, spec: ModelSpec) -> Tensor:
    """Ids [...] of the noise levels nearest to ``alpha`` [...] in [0, 1]."""
    return spec.data_tokens + (alpha * (spec.noise_levels - 1)).round().long()


class Denoiser(Transformer):
    """Called as ``denoise(z, alpha)``: ids or probabilities over data tokens in, logits over data tokens
    out.
    """

    def __init__(self, spec: ModelSpec, seed: int = 0) -> None:
        super().__init__(spec)
        self.model.embed_tokens = SoftEmbedding(spec.vocab_size, spec.hidden_size)
        self.matmul_attention = True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, parameter in self.named_parameters():
                if parameter.dim() == 2:
                    scale = (
                        (2 * spec.num_layers) ** -0.5
                        if name.endswith(("o_proj.weight", "down_proj.weight"))
                        else 1.0
                    )
                    nn.init.normal_(parameter, std=scale * spec.hidden_size**-0.5)

    def forward(self, ids: Tensor, alpha: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Logits [rows, length, K] for ``ids`` [rows, length] or probabilities [rows, length, K] at ``alpha``
        [rows].
        """
        level = level_token(alpha, self.spec).unsqueeze(-1)
        if ids.is_floating_point():
            soft = F.pad(ids, (0, self.spec.noise_levels))
            inputs = torch.cat([F.one_hot(level, self.spec.vocab_size).to(soft.dtype), soft], dim=1)
        else:
            inputs = torch.cat([level, ids], dim=1)
        return self.head(self.hidden(self.model.embed_tokens(inputs))[:, 1:])[..., : self.spec.data_tokens]


def save_denoiser(folder: Path, model: Denoiser, eos: int) -> None:
    """Write config.json and float32 weights; the folder is a checkpoint for the ``duo`` decoder."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = model.spec
    config = {
        "model_type": "uniform",
        "vocab_size": spec.vocab_size,
        "noise_levels": spec.noise_levels,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "max_position_embeddings": spec.max_positions,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope_theta,
        "eos_token_id": eos,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = {name: value.detach().float().contiguous() for name, value in model.state_dict().items()}
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
