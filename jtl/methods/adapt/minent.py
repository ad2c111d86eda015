"""Entropy of the predictions at every pixel of the target, for segmentation."""

import math

from jaxtyping import Array, Float

from jtl.checked import positive
from jtl.methods.terms import map_logits, on_views
from jtl.methods.views import Views
from jtl.metrics import certainty
from jtl.metrics.accumulate import Mean, mean
from jtl.objective import Objective
from jtl.typing import Schedule


def minent(
    weight: float | Schedule = 0.001, *, eta: float | None = None, view: str = "target", name: str = "minent"
) -> Objective:
    """The alignment `λ mean_i ρ(H(p_i) / log C)` over pixels i, `H(p) = −Σ_c p_c log p_c`; ρ(h) = h without `eta`.

    With `eta` it is the term of FDA, `ρ(h) = (h² + 0.001²)^η`: for η > 0.5 its slope `ρ'(h)` grows with h, so uncertain
    pixels weigh more than in the plain entropy. The pixels are those of the network's output, which is not resized to
    the image.

    Args:
      weight: λ, a number or a function of the step; 0.001 is ADVENT's, and FDA has 0.005.
      eta: η > 0; FDA has 2.
      view: the view whose predictions are used.
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight or η; while tracing, for a missing view, or outputs that are not maps of logits.

    Example:
      >>> import jtl
      >>> task = jtl.tasks.segmentation(3, reads=jtl.reads.whole("stage2", "stage4"))
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=task.head)
      >>> terms = [jtl.alignments.minent(0.005, eta=2.0)]
      >>> objective = jtl.adapt(net, task.loss, terms, metrics=task.metrics, ignore=task.ignore)

    Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation, 2019, arXiv
    1811.12833; Yang and Soatto, FDA: Fourier Domain Adaptation for Semantic Segmentation, 2020, arXiv 2004.05498.
    """
    if eta is not None:
        positive(eta=eta)

    def value(views: Views) -> Mean:
        z, kept = map_logits(views, view, name)
        h = relative_entropy(z)
        return mean(h if eta is None else (h**2 + 1e-6) ** eta, kept)

    return on_views(value, weight, name)


def relative_entropy(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    """The entropy of predictions over the largest one, `−Σ_c p_c log p_c / log C`, in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.minent import relative_entropy
      >>> [round(h, 3) for h in relative_entropy(jnp.array([[1.0, 1.0, 1.0], [5.0, 0.0, 0.0]])).tolist()]
      [1.0, 0.073]
    """
    return certainty.entropy(logits) / math.log(logits.shape[-1])
