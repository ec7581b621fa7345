"""The training loop: steps, optimisers, rounds, checkpoints that survive a kill."""
