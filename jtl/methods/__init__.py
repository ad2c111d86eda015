"""Transfer methods, one per file; each is a function that returns an objective or an alignment."""
