"""Choosing rules, one page each, and their registry. All of them run on one block loop (methods.block_loop)
with any cache policy.

A new rule is a subclass of ``Rule`` with ``choose`` in a file of its own here, a line in ``RULES`` and a
method file that names it.
"""

from __future__ import annotations

from methods.rules.adablock import AdaBlockRule
from methods.rules.confidence import ConfidenceRule
from methods.rules.dilated import DilatedRule
from methods.rules.dinfer import CreditRule, HierarchyRule
from methods.rules.entropy_bound import EntropyBoundRule
from methods.rules.entropy_threshold import EntropyThresholdRule
from methods.rules.klass import KlassRule
from methods.rules.pc import PCRule
from methods.rules.rule import Rule
from methods.rules.view import Algorithm, View

__all__ = ["RULES", "Algorithm", "Rule", "View"]

RULES: dict[str, type[Rule]] = {
    "adablock": AdaBlockRule,
    "confidence": ConfidenceRule,
    "credit": CreditRule,
    "dilated": DilatedRule,
    "entropy_bound": EntropyBoundRule,
    "entropy_threshold": EntropyThresholdRule,
    "hierarchy": HierarchyRule,
    "klass": KlassRule,
    "pc": PCRule,
}
