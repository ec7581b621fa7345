"""One transformer for every checkpoint family (Dream, LLaDA, Qwen2, Llama) and its loaders."""

from harness.model.spec import ModelSpec
from harness.model.transformer import Transformer

__all__ = ["ModelSpec", "Transformer"]
