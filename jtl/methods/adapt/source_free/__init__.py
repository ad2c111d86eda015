"""Adaptation to a target without the source data."""

from jtl.methods.adapt.source_free.nrc import memory as memory
from jtl.methods.adapt.source_free.nrc import nrc as nrc
from jtl.methods.adapt.source_free.shot import centroid_labels as centroid_labels
from jtl.methods.adapt.source_free.shot import pseudo_labels as pseudo_labels
from jtl.methods.adapt.source_free.shot import shot as shot
