"""Tools for traces: shapes without values, removal of unneeded operations, and context known while tracing."""
