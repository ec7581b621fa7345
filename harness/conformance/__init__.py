"""`bench check`: what a decoder must keep to, tried on it and read in its source."""
