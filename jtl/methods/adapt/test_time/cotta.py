"""CoTTA: continual adaptation to the averaged predictions of a weight-averaged teacher."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtl import rng
from jtl.methods.adapt.test_time.predictions import kept, logits_of
from jtl.metrics.accumulate import Mean, mean
from jtl.model import Model, Variables, upcast
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats

NAME = "cotta"


def cotta(
    net: Model,
    augment: Callable[[Key, Any], Any],
    *,
    views: int = 32,
    confident: float,
    momentum: float = 0.999,
) -> Objective:
    """The objective `mean_i −Σ_c q_ic log p_ic`: the student's p learns the teacher's q; the logits are the teacher's.

    q is the teacher's prediction. If the source model's mean confidence `mean_i max_c p⁰_ic` is below `confident`, the
    teacher's logits are averaged over augmented views. After each step the teacher is `θ' ← m θ' + (1 − m) θ`.

    Two things differ from the authors' code for CIFAR: the teacher is updated after the stochastic restoration and not
    before it, and the views are computed only if they are averaged, not always. Their 32 views change colour, gamma,
    rotation, translation and scale and add blur, mirroring and noise; here `augment` determines the views. As in their
    code, the views' logits are averaged, not their probabilities, and the teacher predicts a batch before the update.

    A step has three forward passes and one backward pass, and another `views` forward passes if views are averaged: 35
    forward passes with the authors' 32 views. The views are computed one after another, so memory does not grow with
    their number.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].
      augment: `augment(key, x) -> x`, such as `jtl.data.augment.flip()`.
      views: number of augmented views.
      confident: the confidence below which views are averaged; the authors use 0.92 for CIFAR-10, 0.72 for CIFAR-100
        and 0.1 for ImageNet. It has no default because it depends on the data.
      momentum: m.

    Returns:
      A test-time objective. Its stream should train all parameters, with stochastic restoration:
      `stream(cotta(...), tx, trainable=jtl.select(".*"), after=restore(0.01))`.

    Raises:
      ValueError: for fewer than one view, or a confidence or momentum outside [0, 1].

    Example:
      >>> import jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> objective = jtl.test_time.cotta(net, jtl.data.augment.flip(), views=4, confident=0.92)
      >>> after = jtl.test_time.restore(0.01)
      >>> adapting = jtl.test_time.stream(objective, optax.adam(1e-3), trainable=jtl.select(".*"), after=after)

    Wang et al., Continual Test-Time Domain Adaptation, 2022, arXiv 2203.13591.
    """
    if views < 1:
        raise ValueError(f"views={views}: at least one augmented view")
    for name, value in (("confident", confident), ("momentum", momentum)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: it lies in [0, 1]")

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[Mean, Aux]:
        del step
        teacher, source = stats[NAME]["teacher"], stats[NAME]["source"]
        logits = logits_of(net, params, stats, batch, key)
        rows = kept(batch, len(logits))
        plain = logits_of(net, teacher, stats, batch, key)
        sure = jax.nn.softmax(logits_of(net, source, stats, batch, key).astype(jnp.float32)).max(1)
        confidence = jnp.sum(jnp.where(rows, sure, 0)) / jnp.maximum(rows.sum(), 1)

        def averaged() -> Any:
            def one(total: Any, i: Any) -> tuple[Any, None]:
                x = augment(jax.random.fold_in(rng.stream(key, "augment"), i), batch["x"])
                return total + logits_of(net, teacher, stats, {**batch, "x": x}, key), None

            return jax.lax.scan(one, jnp.zeros_like(plain), jnp.arange(views))[0] / views

        target = jax.lax.cond(confidence < confident, averaged, lambda: plain)
        target = jax.lax.stop_gradient(target)
        q = jax.nn.softmax(jnp.where(rows[:, None], target, 0).astype(jnp.float32))
        logp = jax.nn.log_softmax(jnp.where(rows[:, None], logits, 0).astype(jnp.float32))
        return mean(-jnp.sum(q * logp, 1), rows), Aux(stats, {}, {"output": target})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        made = complete(net.init, key, batch["x"], given)
        own = {"teacher": upcast(made.params), "source": made.params}
        return made._replace(stats={NAME: own, **made.stats})

    def commit(stats: Stats, params: Params) -> Stats:
        teacher = optax.incremental_update(upcast(params), stats[NAME]["teacher"], 1 - momentum)
        return {**stats, NAME: {**stats[NAME], "teacher": teacher}}

    return Objective(run, init, commit)
