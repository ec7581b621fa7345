"""Suites: one lm-eval task YAML each, the generators of the embedded ones, and the graders."""
