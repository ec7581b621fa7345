"""Students of masked models: one file per distiller, and what they share."""
