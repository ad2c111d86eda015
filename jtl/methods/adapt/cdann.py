"""Class-conditional adversarial training over several labelled domains, for domain generalisation."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jtl import heads, losses, ops, rng
from jtl.methods.adapt.beside import read_by
from jtl.methods.adapt.views import View, Views
from jtl.methods.adapt.vrex import checked as names_of
from jtl.methods.adapt.vrex import counted, labelled
from jtl.methods.terms import at_step, checked, view_of
from jtl.methods.views import classes_of_rows
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables
from jtl.networks import joined, part
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Key, Params, Schedule, Stats


def cdann(
    domains: Sequence[str],
    critic: Model | None = None,
    weight: float | Schedule = 1.0,
    *,
    name: str = "critic",
) -> Objective:
    """The alignment `mean_k mean_{i: y_i = k} −log D(R_λ f_i + e_{y_i})_{d_i}` over classes k and labelled domains d.

    The critic D names the domain of a row from its features f, shifted by a learned embedding e of its class. So the
    features are trained to be alike in all domains for each class, and not as a whole. `R_λ` reverses the gradient: D
    and e learn at their full rate, and the features get −λ times theirs. Every class of a batch has the same weight,
    so that a domain with another share of classes is not known by that.

    This is DomainBed's form. The paper has a critic for each class, and one more for all. DomainBed takes steps of the
    critic and of the network in turn, and divides by the largest label of a batch plus one, so that its loss is smaller
    where classes are missing. It adds λ times the loss to the mean of the domains' losses, and `adapt` adds up these
    losses: its λ is D times as much here.

    With microbatches the classes are balanced within each part, and a part weighs as much as it has classes.

    Args:
      domains: the views' names, two or more; all have labels.
      critic: a model from the features that it reads, by default `pooled`, to a logit for each domain; None for
        `heads.mlp(len(domains), (256, 256))`. `adapt(...).init` initialises it.
      weight: λ, a number or a function of the step (`weight_schedule(total_steps)`).
      name: name of the parameters, which are `<name>/domains/...` and `<name>/classes/embedding`, and of the term.

    Returns:
      An alignment for `adapt(net, labelled=domains)` with two metrics: `<name>_accuracy`, how often the critic is
      right, and `<name>_weight`, the λ of this step.

    Raises:
      ValueError: for fewer than two domains, or a weight that is negative or not finite; while tracing, for a domain
        that is missing or has no labels of classes, features or outputs that are not [batch, width], or a critic with
        another number of logits.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> domains = ("photo", "sketch", "art")
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.cdann(domains)], labelled=domains)

    Li et al., Deep Domain Generalization via Conditional Invariant Adversarial Networks, 2018; Gulrajani and Lopez-Paz,
    In Search of Lost Domain Generalization, 2020, arXiv 2007.01434.
    """
    checked(weight, name)
    names = names_of(domains)
    model = heads.mlp(len(names), (256, 256)) if critic is None else critic

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        strength = at_step(weight, step)
        own = part(Variables(params, stats), name)
        rows, y, of, counts = [], [], [], []
        for i, domain in enumerate(names):
            view = labelled(views, domain)
            labels, count = classes_of_rows(view.y, name, domain), counted(view)
            count = jnp.ones(len(labels)) if count is None else jnp.asarray(count, jnp.float32)
            rows.append(ops.reverse_gradient(ops.without_masked(_read(model, view), count), strength))
            y.append(jnp.where(count > 0, labels, 0))
            of.append(jnp.full(len(labels), i))
            counts.append(count)
        f, y, of, count = map(jnp.concatenate, (rows, y, of, counts))
        embedding = own.params["classes"]["embedding"]
        balance = balanced(y, count, len(embedding))
        f = f + embedding.astype(f.dtype).at[y].get(mode="fill", wrap_negative_indices=False)
        logits, new = model.apply(part(own, "domains"), f, train=True, key=key)
        if logits.shape != (len(f), len(names)):
            raise ValueError(
                f"the critic returns {logits.shape} for {len(f)} rows; it must give {len(names)} logits each, one for"
                " each domain"
            )
        values = losses.cross_entropy(logits, of)
        metrics = {
            f"{name}_accuracy": mean(logits.argmax(1) == of, count),
            f"{name}_weight": jnp.asarray(strength, jnp.float32),
        }
        after = {**stats, name: {"domains": new}} if new else stats
        return {name: mean(values, balance)}, Aux(after, metrics)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        view = view_of(views, names[0], name)
        read, output = jax.eval_shape(lambda v: (_read(model, v), v.output), view)
        if jnp.ndim(output) != 2:
            raise ValueError(f"{name}: outputs of shape {jnp.shape(output)}; they must be [batch, classes]")
        classes = max(output.shape[1], 2)

        def both(key: Key, x: Any) -> Variables:
            drawn = jax.random.normal(rng.stream(key, f"{name}/classes"), (classes, read.shape[1]))
            made = {
                "classes": Variables({"embedding": drawn}, {}),
                "domains": model.init(rng.stream(key, name), x),
            }
            return joined({name: joined(made)})

        return complete(both, key, read_by(model, view.features, view.x), given)

    return Objective(alignment, init)


def balanced(y: Int[Array, "batch"], count: Float[Array, "batch"], classes: int) -> Float[Array, "batch"]:
    """`c_i / Σ_{j: y_j = y_i} c_j`: weights of rows with which every class that occurs counts 1.

    Args:
      y: the labels.
      count: c, the weights of the rows before.
      classes: number of classes; rows of other labels keep their weights, because their loss is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.cdann import balanced
      >>> balanced(jnp.array([0, 0, 2, 2]), jnp.array([1.0, 3.0, 2.0, 0.0]), 3).tolist()
      [0.25, 0.75, 1.0, 0.0]
    """
    sums = ops.batch_sum(jnp.zeros(classes).at[y].add(count, mode="drop", wrap_negative_indices=False))
    of_rows = sums.at[y].get(mode="fill", fill_value=1.0, wrap_negative_indices=False)
    return count / jnp.where(count > 0, of_rows, 1.0)


def _read(critic: Model, view: View) -> Array:
    """The features that the critic reads."""
    f = critic.reads(view.features, view.x)
    if jnp.ndim(f) != 2:
        raise ValueError(f"the critic of the domains reads features of shape {jnp.shape(f)}; give [batch, width]")
    return f
