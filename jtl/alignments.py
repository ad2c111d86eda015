"""Domain alignments and related functions: `jtl.methods.adapt` under the name that users import."""

from jtl.methods.adapt import *
