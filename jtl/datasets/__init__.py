"""Public data sets for the recipes and benchmarks, fetched if there is a network: `python -m jtl.datasets`."""

from jtl.datasets.catalogue import CATALOGUE as CATALOGUE
from jtl.datasets.catalogue import Entry as Entry
from jtl.datasets.fetch import File as File
from jtl.datasets.fetch import fetch as fetch
