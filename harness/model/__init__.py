"""One transformer for every checkpoint family (Dream, LLaDA, Qwen2, Llama) and its loaders."""

# The transformer is not named here: who only reads text or a specification is spared torch's import.
from harness.model.spec import ModelSpec

__all__ = ["ModelSpec"]
