"""Variables on a mesh, batches on one of its devices: each function that computes with both gives what it gives on one.

jax by itself refuses such arguments.
"""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from nets import dense, largest_difference, normed, top

import jtl
from jtl.alignments import class_weights
from jtl.networks import network
from jtl.train.state import State

NET, NORMED = network(backbone=dense(4), head=top(3)), network(backbone=normed(4), head=top(3))
KEY, X = jax.random.key(0), np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
BATCH = {"x": X, "y": np.arange(6)}


def state_of(variables, stats):
    return State(0, variables.params, stats, (), None, None)


CASES = {
    "memory": lambda v, b: jtl.source_free.memory(NET, jtl.source_free.nrc(NET, 6).init(KEY, BATCH, v), b).stats,
    "pseudo_labels": lambda v, b: jtl.source_free.pseudo_labels(NET, b)(
        state_of(v, {**v.stats, "shot": np.zeros(6, int)})
    ).stats["shot"],
    "cluster_labels": lambda v, b: jtl.alignments.cluster_labels(
        NET, [{**part, "y": part["y"] % 3} for part in b], b, distance=1.0, least_rows=1
    )(state_of(v, {**v.stats, "can": np.zeros(6, int)})).stats["can"],
    "fisher_diagonal": lambda v, b: jtl.finetuning.fisher_diagonal(NET, v, b)[0],
    "class_weights": lambda v, b: class_weights(NET, b)(state_of(v, {"class_weights": np.ones(3)})).stats,
    "extract": lambda v, b: jtl.extract(dense(4), jtl.networks.part(v, "backbone"), b),
    "channel_attention": lambda v, b: jtl.finetuning.channel_attention(
        NET, v, [{**part, "y": part["y"] % 3} for part in b], "layer0", channels=4
    ),
    "ada_bn": lambda v, b: jtl.test_time.ada_bn(NORMED, v, [part["x"] for part in b]).stats,
    "fisher": lambda v, b: jtl.test_time.fisher_information(NORMED, v, [part["x"] for part in b])[0],
}


@pytest.mark.parametrize("name", CASES)
def test_a_batch_on_one_device_of_the_mesh_of_the_variables(name):
    variables = (NORMED if name in ("ada_bn", "fisher") else NET).init(KEY, X)
    spread = jax.device_put(variables, NamedSharding(jtl.mesh(), PartitionSpec()))
    one = jax.device_put(BATCH, jax.devices()[1])
    wanted, found = (jax.device_get(CASES[name](v, [b])) for v, b in ((variables, BATCH), (spread, one)))
    assert largest_difference(found, wanted) < 1e-6
