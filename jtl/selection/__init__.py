"""Model selection: ranks pretrained models (`ranking`), scores checkpoints without labels (`validators`), merges."""

from jtl.selection import ranking as ranking
from jtl.selection import validators as validators
from jtl.selection.merging import dare as dare
from jtl.selection.merging import task_arithmetic as task_arithmetic
from jtl.selection.merging import ties as ties
from jtl.selection.soups import Soup as Soup
from jtl.selection.soups import greedy_soup as greedy_soup
from jtl.selection.soups import interpolate as interpolate
