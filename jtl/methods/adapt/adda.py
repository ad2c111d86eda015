"""Adversarial discriminative adaptation: a target encoder learns to be indistinguishable from a frozen source one."""

from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops, rng
from jtl.methods.adapt.beside import beside
from jtl.methods.adapt.dann import default_critic, domain_loss, judge
from jtl.methods.adapt.views import View
from jtl.methods.views import needs
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables
from jtl.networks import part
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats


def adda(net: Model, critic: Model | None = None, *, name: str = "critic") -> tuple[Objective, Objective]:
    """Adversarial discriminative adaptation, as two objectives: the critic's, then the target encoder's.

    The critic minimises `½ mean_source −log D(f_0) + ½ mean_target −log(1 − D(f))` on features held constant, with f_0
    the source encoder, frozen and in evaluation mode. The target encoder minimises the loss with inverted labels,
    `mean_target −log D(f)`, whose gradient does not vanish when the critic is confident. Nothing is learned from
    labels: train the network on the source first and give its variables to `init`; the head stays as it is.

    Args:
      net: `jtl.network(backbone=..., head=...)`; its backbone becomes the target encoder.
      critic: a model from the features that it reads to one logit [batch, 1]; None for `heads.mlp(1, (256, 256))`.
      name: name of the critic's parameters; f_0 is kept in the statistics as `source_encoder`.

    Returns:
      The critic's objective, with the metrics `<name>_accuracy` and `<name>_a_distance`, and the encoder's, for
      `make_step([critic, encoder], [tx, tx], trainable=[select("critic/.*"), select("backbone/.*")])`.

    Raises:
      ValueError: at init, if no trained backbone is given.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"source": {"x": jnp.ones((4, 5))}, "target": {"x": jnp.zeros((4, 5))}}
      >>> trained = net.init(jax.random.key(0), batch["source"]["x"])  # in place of training on the source
      >>> first, second = jtl.alignments.adda(net)
      >>> sorted(first.init(jax.random.key(1), batch, trained).params)
      ['backbone', 'critic', 'head']

    Tzeng et al., Adversarial Discriminative Domain Adaptation, 2017, arXiv 1702.05464.
    """
    model = default_critic() if critic is None else critic

    def encoded(params: Params, stats: Stats, rows: Batch, key: Key | None, train: bool) -> tuple[View, Stats]:
        x = ops.without_masked(rows["x"], rows.get("mask"))
        out, stats = net.apply(Variables(params, stats), x, train=train, key=key)
        return View(out.features, out.output, rows["x"], None, rows.get("mask"), {}), stats

    def critic_turn(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        needs(batch, ("source", "target"), "adda")
        start = stats["source_encoder"]
        frozen = {**params, "backbone": start["params"]}, {**stats, "backbone": start["stats"]}
        source, _ = encoded(*frozen, batch["source"], None, False)
        target, _ = encoded(params, stats, batch["target"], key, True)
        views = {"source": source, "target": target}
        read = {d: jax.lax.stop_gradient(model.reads(v.features, v.x)) for d, v in views.items()}
        return judge(model, name, params, stats, views, read, rng.stream(key, name))

    def encoder_turn(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        needs(batch, ("target",), "adda")
        view, stats = encoded(params, stats, batch["target"], key, True)
        read = ops.without_masked(model.reads(view.features, view.x), view.mask)
        own = part(Variables(params, stats), name)
        logits, _ = model.apply(own, read, train=True, key=rng.stream(key, name))
        return {"inverted": mean(domain_loss(logits[:, 0], 1.0), view.mask)}, Aux(stats)

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        if "backbone" not in given.params:
            raise ValueError("adda starts from a network that is trained on the source: give its variables to init")
        needs(batch, ("target",), "adda")
        variables = complete(beside(net, model, name), key, batch["target"]["x"], given)
        if "source_encoder" in variables.stats:
            return variables
        start = {"params": variables.params["backbone"], "stats": variables.stats.get("backbone", {})}
        return Variables(variables.params, {**variables.stats, "source_encoder": jax.tree.map(jnp.array, start)})

    return Objective(critic_turn, init), Objective(encoder_turn, init)
