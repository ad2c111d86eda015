"""Model selection: ranks pretrained models (`ranking`), scores checkpoints without labels (`validators`), averages."""

from jtl.selection import ranking as ranking
from jtl.selection import validators as validators
from jtl.selection.soups import Soup as Soup
from jtl.selection.soups import greedy_soup as greedy_soup
from jtl.selection.soups import interpolate as interpolate
