"""Readers and writers of weight files; they know no network."""
