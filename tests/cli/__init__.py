"""Commands and settings."""
