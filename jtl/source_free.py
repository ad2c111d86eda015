"""Source-free adaptation: `jtl.methods.adapt.source_free` under the name that users import."""

from jtl.methods.adapt.source_free import *
