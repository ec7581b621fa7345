"""Forwards, canvas, store of keys and values, meter."""
