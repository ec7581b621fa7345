"""Dream, DiffuCoder, Dream-Coder: Qwen2.5 run in both directions, its shift kept."""

from harness.model.family import Family

FAMILY = Family(name="dream")
