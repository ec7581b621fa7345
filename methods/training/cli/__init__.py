"""Commands of training: bench train, bench generate-data."""
