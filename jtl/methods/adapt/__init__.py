"""Domain adaptation: a supervised loss on the source and any sum of alignments; `jtl.alignments` is this package."""

from jtl.methods.adapt.adapt import adapt as adapt
from jtl.methods.adapt.adda import adda as adda
from jtl.methods.adapt.cdan import cdan as cdan
from jtl.methods.adapt.dann import alternating as alternating
from jtl.methods.adapt.dann import dann as dann
from jtl.methods.adapt.dann import weight_schedule as weight_schedule
from jtl.methods.adapt.group_dro import group_dro as group_dro
from jtl.methods.adapt.irm import irm as irm
from jtl.methods.adapt.mcd import mcd as mcd
from jtl.methods.adapt.mdd import mdd as mdd
from jtl.methods.adapt.osbp import osbp as osbp
from jtl.methods.adapt.vrex import vrex as vrex
from jtl.methods.adapt.wdgrl import wdgrl as wdgrl
