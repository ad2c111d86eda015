"""Reports: tables, learning curves, confusion matrices. Pure functions of numbers."""

from jtl.report.domains import domains
from jtl.report.figures import confusion, curves
from jtl.report.tables import Spread, Table, markdown, show, spread

__all__ = ["Spread", "Table", "confusion", "curves", "domains", "markdown", "show", "spread"]
