"""Distillation and GRPO."""
