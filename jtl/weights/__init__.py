"""Read weight files of other libraries, and give their tensors the names of a model's parameters."""

from jtl.weights.formats.errors import WeightFileError, WeightNameError
from jtl.weights.formats.lazy_tensors import Entry, Tensors
from jtl.weights.formats.read import read
from jtl.weights.invert import export
from jtl.weights.names import convert
from jtl.weights.report import Coverage
from jtl.weights.rules import Rule

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
