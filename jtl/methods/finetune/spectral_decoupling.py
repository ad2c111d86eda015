"""Spectral decoupling: a penalty on logits, so that a feature learned early does not keep others from being learned."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from jtl import checked
from jtl.methods.terms import on_views, row_logits, view_of
from jtl.methods.views import Views, classes_of_rows
from jtl.metrics.accumulate import Mean, mean
from jtl.objective import Objective
from jtl.typing import Schedule


def spectral_decoupling(
    weight: float | Schedule = 0.2,
    *,
    centre: float | Sequence[float] = 0.0,
    domains: Sequence[str] = ("source",),
    head: str | None = None,
    name: str = "spectral_decoupling",
) -> Objective:
    """The term `(λ/2) mean_{i,k} (z_ik − γ)²` of the logits z, over all classes k and all rows i of the domains.

    Where the cross-entropy is small its gradient is too, so features that are learned late get little of it. The paper
    has this penalty in the place of weight decay.

    Args:
      weight: λ, a number or a function of the step. DomainBed's default is 0.2 beside the mean of the domains' losses,
        and `adapt` adds up these losses: theirs is D times as much here.
      centre: γ, or a γ for each class: then a row's is that of its label. (For these the authors' code adds up a mean
        of each class; here it is the mean of all rows, as of the loss.)
      domains: the views whose logits count; `source` is the only view of `finetune`.
      head: which head's logits, if the network has several.
      name: name of the term.

    Returns:
      A term for `finetune(net, loss, terms)` or an alignment for `adapt(net, labelled=domains)`.

    Raises:
      ValueError: for a weight that is negative or not finite, a centre that is not finite, or no domains; while
        tracing, for a missing view or head, logits that are not [batch, classes], another number of centres than
        classes, or labels that are no classes.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.finetune(net, terms=[jtl.finetuning.spectral_decoupling()])
      >>> domains = ("photo", "sketch")
      >>> term = jtl.finetuning.spectral_decoupling(0.4, domains=domains)
      >>> objective = jtl.adapt(net, alignments=[term], labelled=domains)

    Pezeshki et al., Gradient Starvation: A Learning Proclivity in Neural Networks, 2020, arXiv 2011.09468.
    """
    names = tuple(domains)
    if isinstance(domains, str) or len(set(names)) < max(1, len(names)):
        raise ValueError(f"{name}: domains={domains!r}: give the names of the views whose logits count, each once")
    of_classes = tuple(centre) if isinstance(centre, Sequence) else None
    checked.within("(-inf, inf)", **({"centre": centre} if of_classes is None else checked.each("centre", of_classes)))

    def squares(views: Views, of: str) -> Mean:
        view = view_of(views, of, name)
        if head is not None:
            if not isinstance(view.output, Mapping) or head not in view.output:
                there = sorted(view.output) if isinstance(view.output, Mapping) else "one head alone"
                raise ValueError(f"{name}: head={head!r}: the network has {there}")
            view = view._replace(output=view.output[head])
        z, _ = row_logits({of: view}, of, name, least=1)
        if of_classes is None:
            gaps = z - jnp.asarray(centre, z.dtype)
        elif len(of_classes) == max(z.shape[1], 2):
            gaps = z - jnp.asarray(of_classes, z.dtype)[classes_of_rows(view.y, name, of)][:, None]
        else:
            raise ValueError(f"{name}: {len(of_classes)} centres for logits {z.shape}: give one for each class")
        return mean((gaps**2).mean(1) / 2, view.mask, view.rows.get("weights"))

    def value(views: Views) -> Mean:
        sums = [squares(views, of) for of in names]
        return Mean(sum(s.total for s in sums), sum(s.count for s in sums))

    return on_views(value, weight, name)
