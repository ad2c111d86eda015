"""Test-time adaptation: a model adapts to a stream of unlabelled batches."""

from jtl.methods.adapt.test_time.ada_bn import ada_bn as ada_bn
from jtl.methods.adapt.test_time.cotta import cotta as cotta
from jtl.methods.adapt.test_time.eata import eata as eata
from jtl.methods.adapt.test_time.eata import fisher_information as fisher_information
from jtl.methods.adapt.test_time.lame import lame as lame
from jtl.methods.adapt.test_time.lame import laplacian_adjusted as laplacian_adjusted
from jtl.methods.adapt.test_time.memo import memo as memo
from jtl.methods.adapt.test_time.norms import by_batch as by_batch
from jtl.methods.adapt.test_time.norms import norms as norms
from jtl.methods.adapt.test_time.roid import roid as roid
from jtl.methods.adapt.test_time.roid import soft_likelihood_ratio as soft_likelihood_ratio
from jtl.methods.adapt.test_time.rotta import rotta as rotta
from jtl.methods.adapt.test_time.sar import sar as sar
from jtl.methods.adapt.test_time.stream import Stream as Stream
from jtl.methods.adapt.test_time.stream import StreamState as StreamState
from jtl.methods.adapt.test_time.stream import ensemble as ensemble
from jtl.methods.adapt.test_time.stream import restore as restore
from jtl.methods.adapt.test_time.stream import stream as stream
from jtl.methods.adapt.test_time.t3a import t3a as t3a
from jtl.methods.adapt.test_time.tent import batch_statistics as batch_statistics
from jtl.methods.adapt.test_time.tent import tent as tent
