"""Tools on traces: shapes without values, and operations that nothing needs."""
