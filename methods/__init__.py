"""Pluggable decoders, one file each, and their trainers."""
