"""Alignments of domains and what goes with them: `jtl.methods.adapt` under the name that users import from."""

from jtl.methods.adapt import *
