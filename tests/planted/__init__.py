"""Methods with a known fault, honestly metered: what a comparison must be able to find."""
