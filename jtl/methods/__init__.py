"""One file an idea; each is a function that returns an objective or an alignment."""
