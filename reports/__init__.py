"""Reports: pure functions of stored runs. Nothing here runs a model."""
