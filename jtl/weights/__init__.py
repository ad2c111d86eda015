"""Reads weight files of other libraries and maps the names of their tensors to a model's parameters."""

from jtl.weights.formats.errors import WeightFileError, WeightNameError
from jtl.weights.formats.lazy_tensors import Entry, Tensors
from jtl.weights.formats.read import read
from jtl.weights.mapping.convert import convert
from jtl.weights.mapping.coverage import Coverage
from jtl.weights.mapping.export import export
from jtl.weights.mapping.rules import Rule

__all__ = [
    "Coverage",
    "Entry",
    "Rule",
    "Tensors",
    "WeightFileError",
    "WeightNameError",
    "convert",
    "export",
    "read",
]
