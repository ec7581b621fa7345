"""The contract of decoders."""
