"""Maps the names and layouts of a file to those of a model; independent of any network."""
