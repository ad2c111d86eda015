"""Minimax entropy: the head makes predictions on the target uncertain, and the features make them certain."""

from typing import Any

from jtl.methods.adapt.reversed_head import reversed_logits
from jtl.methods.terms import at_step, checked
from jtl.methods.views import Views
from jtl.metrics.accumulate import mean
from jtl.metrics.certainty import entropy
from jtl.model import Model
from jtl.networks import only_head
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def mme(net: Model, weight: float | Schedule = 0.1, *, view: str = "target", name: str = "mme") -> Objective:
    """The alignment `−λ mean_i H(softmax(h(R f_i)))` of the unlabelled rows of the target, `H(p) = −Σ_c p_c log p_c`.

    The head h maximises the entropy, which moves the direction of each class towards the target's features. R reverses
    the gradient, so the features minimise the same entropy and gather around these directions. R is part of this term:
    the network has none.

    The method is for a few labelled rows of the target, as one more view: `adapt(..., labelled=("source", "few"))`. It
    needs a head that normalises the features: `jtl.heads.cosine(classes, temperature=0.05)` is the paper's, `h(f)_c =
    cos(f, w_c) / τ`. The name `few` is free; its rows may stay in `target` too.

    Args:
      net: the network that is adapted, with a single head.
      weight: λ, a number or a function of the step; 0.1 in the paper. It weighs the term for the head and the features.
      view: the view of unlabelled rows.
      name: name of the term.

    Returns:
      An alignment with the metric `<name>_entropy`, the mean entropy itself.

    Raises:
      ValueError: for an invalid weight, or a network with several heads; while tracing, for a missing view, or fewer
        than two outputs.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> head = jtl.heads.cosine(3, temperature=0.05)
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=head)
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.mme(net)], labelled=("source", "few"))
      >>> x, y = jnp.ones((4, 5)), jnp.zeros(4, int)
      >>> batch = {"source": {"x": x, "y": y}, "few": {"x": x[:1], "y": y[:1]}, "target": {"x": x}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> terms, _ = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)
      >>> sorted(terms)
      ['few', 'mme', 'source']

    Saito et al., Semi-supervised Domain Adaptation via Minimax Entropy, 2019, arXiv 1904.06487.
    """
    checked(weight, name)
    only_head(net, "mme")

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        [(z, kept)] = reversed_logits(net, "mme", (view,), params, stats, views, key)
        uncertain = mean(entropy(z), kept)
        return {name: uncertain.scale(-at_step(weight, step))}, Aux(stats, {f"{name}_entropy": uncertain})

    return Objective(alignment)
