"""Decoding of block-diffusion models: SDAR, BD3LM (Tiny-A2D), Fast-dLLM v2, LLaDA2."""
