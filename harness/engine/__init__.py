"""What answers prompts: opening a model with what a method needs, and generating in batches."""
