"""Distillation losses as pure functions on tensors: no model, no data, no optimiser."""
