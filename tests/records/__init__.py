"""Schema and stored runs."""
