"""Qwen2 and Qwen2.5, the causal parents of Dream."""

from harness.model.family import Family

FAMILY = Family(name="qwen2", attention="causal")
