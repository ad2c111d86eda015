"""Choosing: which pretrained model to transfer (`ranking`), and which checkpoint without labels (`validators`)."""

from jtl.selection import ranking as ranking
from jtl.selection import validators as validators
