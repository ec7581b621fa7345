"""Runs: plans and their ids, cells (one method on one suite), sweeps and the processes that work them off."""
