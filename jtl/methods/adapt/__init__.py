"""Domain adaptation: a supervised loss on the source and any sum of alignments; `jtl.alignments` is this package."""

from jtl.methods.adapt.adapt import adapt as adapt
from jtl.methods.adapt.adda import adda as adda
from jtl.methods.adapt.afn import afn as afn
from jtl.methods.adapt.bnm import bnm as bnm
from jtl.methods.adapt.bsp import bsp as bsp
from jtl.methods.adapt.cdan import cdan as cdan
from jtl.methods.adapt.coral import coral as coral
from jtl.methods.adapt.dann import alternating as alternating
from jtl.methods.adapt.dann import dann as dann
from jtl.methods.adapt.dann import weight_schedule as weight_schedule
from jtl.methods.adapt.entropy import entropy as entropy
from jtl.methods.adapt.entropy import information_maximisation as information_maximisation
from jtl.methods.adapt.group_dro import group_dro as group_dro
from jtl.methods.adapt.irm import irm as irm
from jtl.methods.adapt.jdot import deep_jdot as deep_jdot
from jtl.methods.adapt.jmmd import jmmd as jmmd
from jtl.methods.adapt.lmmd import lmmd as lmmd
from jtl.methods.adapt.mcc import mcc as mcc
from jtl.methods.adapt.mcd import mcd as mcd
from jtl.methods.adapt.mdd import mdd as mdd
from jtl.methods.adapt.mean_teacher import mean_teacher as mean_teacher
from jtl.methods.adapt.mmd import mmd as mmd
from jtl.methods.adapt.pseudo_labels import fixmatch as fixmatch
from jtl.methods.adapt.pseudo_labels import pseudo_labels as pseudo_labels
from jtl.methods.adapt.vrex import vrex as vrex
from jtl.methods.adapt.wdgrl import wdgrl as wdgrl
