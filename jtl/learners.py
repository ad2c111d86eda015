"""Meta-learners and update rules: `jtl.methods.meta` under the name that users import."""

from jtl.methods.meta import *
