"""The jail."""
