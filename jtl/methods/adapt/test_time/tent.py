"""TENT: entropy minimisation at test time; also prediction with the batch's statistics alone."""

from typing import Any

import jax.numpy as jnp

from jtl.methods.adapt.test_time.predictions import logits_of
from jtl.metrics.accumulate import Mean, mean
from jtl.metrics.certainty import entropy
from jtl.model import Model
from jtl.objective import Objective, init_of
from jtl.typing import Aux, Batch, Key, Params, Stats


def tent(net: Model) -> Objective:
    """The test-time objective `mean_i H(p_i)`, p the prediction under the batch's normalisation statistics.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].

    Returns:
      An objective on `{"x", "mask"}`, with optional mask, for `stream(tent(net), tx)`; its output is the logits.

    Raises:
      ValueError: while tracing, for an output that is not [batch, classes].

    Example:
      >>> import jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> adapting = jtl.test_time.stream(jtl.test_time.tent(net), optax.adam(1e-3))

    Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, 2021, arXiv 2006.10726.
    """

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Mean, Aux]:
        del step
        logits = logits_of(net, params, stats, batch, key)
        mask = batch.get("mask")
        clean = logits if mask is None else jnp.where((jnp.asarray(mask) > 0)[:, None], logits, 0)
        return mean(entropy(clean), mask), Aux(stats, {}, {"output": logits})

    return Objective(run, init_of(net))


def batch_statistics(net: Model) -> Objective:
    """The test-time objective that learns nothing: predictions under the batch's normalisation statistics.

    The loss is 0. It is the baseline "BN" of the test-time literature.

    Args:
      net: `jtl.network(backbone=..., head=...)` with BatchNorm.

    Example:
      >>> import jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> adapting = jtl.test_time.stream(jtl.test_time.batch_statistics(net), optax.set_to_zero())

    Nado et al., Evaluating Prediction-Time Batch Normalization for Robustness under Covariate Shift, 2020, arXiv
    2006.10963.
    """

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Mean, Aux]:
        del step
        logits = logits_of(net, params, stats, batch, key)
        return mean(jnp.zeros(len(logits)), batch.get("mask")), Aux(stats, {}, {"output": logits})

    return Objective(run, init_of(net))
