"""Readers and writers of weight files; independent of any network."""
