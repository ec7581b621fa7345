"""DUO: curriculum and consistency distillation of uniform-state models."""
