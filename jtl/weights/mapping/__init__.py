"""From the names and layouts of a file to those of a model; they know no network."""
