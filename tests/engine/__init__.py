"""Opening a model, prompts, generation."""
