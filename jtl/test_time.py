"""Test-time adaptation: `jtl.methods.adapt.test_time` under the name that users import."""

from jtl.methods.adapt.test_time import *
