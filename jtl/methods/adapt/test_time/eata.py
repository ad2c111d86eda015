"""EATA: entropy minimisation on reliable and non-redundant rows, with a Fisher penalty that keeps the source model."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jtl.methods.adapt.test_time.norms import norms
from jtl.methods.adapt.test_time.predictions import classes_of, kept, logits_of
from jtl.methods.finetune.fisher import fisher_distance
from jtl.methods.near import near
from jtl.metrics.accumulate import Mean, mean
from jtl.metrics.certainty import entropy, mean_prediction
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective, complete
from jtl.params import merge, split
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats, Tree

NAME = "eata"


def eata(
    net: Model, *, fisher: tuple[Params, Params] | None = None, weight: float = 2000.0, margin: float = 0.4, near: float
) -> Objective:
    """The objective `Σ_{i in S} exp(E_0 − H_i) H_i / |S| + β Σ_j F_j (θ_j − θ⁰_j)²`, with `E_0 = margin · ln C`.

    S are the rows that are reliable, `H_i < E_0`, and not redundant: the absolute cosine of `p_i` and the moving
    average m of the selected predictions is below `near`. `m ← 0.9 m + 0.1 mean_S p`; in the first batch every reliable
    row is selected. The weight `exp(E_0 − H_i)` has no gradient. Without `fisher` this is ETA.

    As in the authors' code, a batch is predicted before the update, and all its rows pass forward once, so rows that
    are not selected contribute to the batch's statistics. One thing differs from that code: a batch without a selected
    row takes a step on the Fisher term alone, whereas theirs takes no step.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].
      fisher: the result of `fisher_information(...)`: the source's Fisher information and its parameters.
      weight: β; the authors use 2000 for ImageNet and 1 for CIFAR-10.
      margin: entropy limit of reliable rows, as a share of the largest possible entropy.
      near: the redundancy threshold ε; the authors use 0.05 for ImageNet and 0.4 for CIFAR-10. It has no
        default because it depends on the number of classes.

    Returns:
      A test-time objective with the metric `selected`, the share of rows in S.

    Raises:
      ValueError: for a margin or `near` outside (0, 1].

    Example:
      >>> import jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> adapting = jtl.test_time.stream(jtl.test_time.eata(net, near=0.4), optax.sgd(1e-3, momentum=0.9))

    Niu et al., Efficient Test-Time Model Adaptation without Forgetting, 2022, arXiv 2204.02610.
    """
    for name, value in (("margin", margin), ("near", near)):
        if not 0 < value <= 1:
            raise ValueError(f"{name}={value}: it lies in (0, 1]")

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[dict, Aux]:
        del step
        logits = logits_of(net, params, stats, batch, key)
        rows = kept(batch, len(logits))
        clean = jnp.where(rows[:, None], logits, 0)
        h = entropy(clean)
        limit = margin * math.log(logits.shape[1])
        average, seen = stats[NAME]["mean"], stats[NAME]["seen"]
        p = jax.lax.stop_gradient(jax.nn.softmax(clean.astype(jnp.float32)))
        cosine = p @ average / jnp.maximum(jnp.linalg.norm(p, axis=1) * jnp.linalg.norm(average), 1e-8)
        chosen = rows & (h < limit) & (~seen | (jnp.abs(cosine) < near))
        coefficient = jnp.exp(limit - jax.lax.stop_gradient(h))
        count = jnp.sum(chosen, dtype=h.dtype)
        total = jnp.sum(jnp.where(chosen, coefficient * h, 0))
        new = mean_prediction(jax.lax.stop_gradient(logits), chosen).astype(average.dtype)
        moved = jnp.where(seen, 0.9 * average + 0.1 * new, new)
        own = {"mean": jnp.where(count > 0, moved, average), "seen": seen | (count > 0)}
        terms = {NAME: Mean(total, count)}
        if fisher is not None:
            terms["fisher"] = mean(weight * fisher_distance(params, *fisher))
        everyone = jnp.sum(rows, dtype=h.dtype)
        return terms, Aux({**stats, NAME: own}, {"selected": Mean(count, everyone)}, {"output": logits})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        made = complete(net.init, key, batch["x"], given)
        start = {"mean": jnp.zeros(classes_of(net, made, batch)), "seen": jnp.zeros((), bool)}
        return made._replace(stats={NAME: start, **made.stats})

    return Objective(run, init)


def fisher_information(
    net: Model, variables: Variables, batches: Iterable[Any], *, trainable: Mask | Tree = norms
) -> tuple[Params, Params]:
    """The diagonal Fisher information of pseudo-labels, `F_j = mean_b (∂/∂θ_j mean_{i in b} −log p_i[argmax p_i])²`.

    These are squares of whole batches, as in the authors' code; `jtl.finetuning.fisher_diagonal` squares by rows.

    Args:
      net: the network.
      variables: variables of the source model.
      batches: unlabelled inputs close to the source distribution, arrays [batch, ...]; the authors use 2,000 rows in
        batches of 64.
      trainable: the parameters that will be adapted.

    Returns:
      F and the parameters, both restricted to `trainable`, for the argument `fisher` of `eata`.

    Raises:
      ValueError: if there is no batch.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> x = jnp.ones((4, 16, 16, 3))
      >>> fisher, start = jtl.test_time.fisher_information(net, net.init(jax.random.key(0), x), [x])

    Niu et al., Efficient Test-Time Model Adaptation without Forgetting, 2022, arXiv 2204.02610.
    """
    part, rest = split(variables.params, trainable)

    def loss(part: Params, rest: Params, stats: Stats, x: Any) -> Any:
        logits = logits_of(net, merge(part, rest), stats, {"x": x}, None)
        return -jax.nn.log_softmax(logits.astype(jnp.float32)).max(1).mean()

    gradient = jax.jit(jax.grad(loss))
    placed = jax.device_put((part, rest, variables.stats))  # once, because each call would copy NumPy arrays
    put = near(placed)
    total, count = jax.tree.map(jnp.zeros_like, part), 0
    for x in batches:
        total = jax.tree.map(lambda t, g: t + g**2, total, gradient(*placed, put(x)))
        count += 1
    if not count:
        raise ValueError("fisher_information needs at least one batch of inputs")
    return jax.tree.map(lambda t: t / count, total), part
