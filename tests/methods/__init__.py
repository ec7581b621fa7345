"""Decoders, caches and rules."""
