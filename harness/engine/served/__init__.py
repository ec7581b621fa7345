"""Engines as they are: servers that decode by themselves, asked for whole prompts, clocked and graded."""
