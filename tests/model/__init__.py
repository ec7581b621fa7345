"""Checkpoints, families, adapters, tokenizers."""
