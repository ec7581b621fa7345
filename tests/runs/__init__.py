"""Runs, cells and sweeps."""
