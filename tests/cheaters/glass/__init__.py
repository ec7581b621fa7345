"""Attempts of a decoder to forge its figures, each to be run in the harness' process and behind the glass."""
