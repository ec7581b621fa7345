"""Stored truth: the schema of runs and samples, run folders, files that survive a kill."""
