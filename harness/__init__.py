"""The judge: backbone, canvas, meter, run store, lm-eval model and CLI. It names no method."""

__version__ = "0.1.0"
