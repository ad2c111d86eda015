"""The baseline without adaptation sees no row of the target, in BatchNorm neither; `adapt` without alignments does."""

import jax
import numpy as np
import optax
from nets import batch, normed, top

from jtl.command.adaptations import plan
from jtl.methods.adapt.adapt import adapt
from jtl.methods.finetune.finetune import finetune
from jtl.networks import network
from jtl.train import make_step

NET = network(backbone=normed(4), head=top(3))
SOURCE = batch(n=16, seed=0)
VARIABLES = NET.init(jax.random.key(0), SOURCE["x"])


def rows(shift):
    return {"source": SOURCE, "target": {"x": batch(n=16, seed=1)["x"] + np.float32(shift)}}


def stepped(objective, given):
    """The parameters and statistics after a step."""
    step = make_step(objective, optax.sgd(0.1))
    state, _ = jax.jit(step)(step.init(VARIABLES, jax.random.key(1)), given)
    return jax.device_get((state.params, state.stats))


def running_mean(stats):
    return stats["backbone"]["norm"]["mean"]


def test_only_adapt_lets_the_target_into_batchnorm():
    """36.9 % of USPS were right in place of 52.1 where this passed for training on the source alone."""
    kernel = np.asarray(VARIABLES.params["backbone"]["layer"]["kernel"])
    near, far = rows(0.0), rows(5.0)
    alone = stepped(finetune(NET), SOURCE)
    np.testing.assert_allclose(running_mean(alone[1]), 0.1 * (SOURCE["x"] @ kernel).mean(0), atol=1e-6)
    for given in (near, far):
        both = np.concatenate([part["x"] for part in given.values()])
        found = stepped(adapt(NET), given)
        np.testing.assert_allclose(running_mean(found[1]), 0.1 * (both @ kernel).mean(0), atol=1e-5)


def test_the_source_alone_of_the_command_is_fine_tuning():
    objective = plan("source", NET, 3, 10).objective
    alone = stepped(finetune(NET), SOURCE)
    for shift in (0.0, 5.0):
        jax.tree.map(np.testing.assert_array_equal, stepped(objective, rows(shift)), alone)
