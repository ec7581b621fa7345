"""Figures over stored samples: summaries with intervals, paired comparisons, verdicts, blocks."""
