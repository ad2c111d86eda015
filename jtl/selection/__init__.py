"""Choosing: which pretrained model (`ranking`), which checkpoint without labels (`validators`), which average."""

from jtl.selection import ranking as ranking
from jtl.selection import validators as validators
from jtl.selection.soups import Soup as Soup
from jtl.selection.soups import greedy_soup as greedy_soup
from jtl.selection.soups import interpolate as interpolate
