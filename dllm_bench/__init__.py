"""The public interface: ``import dllm_bench`` gives load, decode, run, compare and register. See
docs/api.md.
"""

from dllm_bench import _tree  # noqa: F401 - first: it decides what the names of our folders mean
from dllm_bench.api import compare, decode, load, register, run

__all__ = ["compare", "decode", "load", "register", "run"]
