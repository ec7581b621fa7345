"""lm-eval's model class."""
