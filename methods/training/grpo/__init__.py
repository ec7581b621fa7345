"""Group-relative policy optimisation (GRPO) of masked diffusion models with verifiable rewards, on verl's
single controller.
"""
