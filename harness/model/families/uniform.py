"""Uniform-state models: noise is a random token, predictions in place (``bench train duo``)."""

from harness.model.family import Family

FAMILY = Family(name="uniform", shift=False, qkv_bias=False, uniform_state=True)
