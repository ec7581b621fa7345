"""Figures over samples."""
