"""Longer checks, run by hand: ``python -m tests.tools.NAME``."""
