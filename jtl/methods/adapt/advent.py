"""Adversarial entropy minimisation: a critic tells the domains apart by how uncertain each pixel's prediction is."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import checked as numbers
from jtl import rng
from jtl.methods.adapt.beside import named
from jtl.methods.adapt.dann import DOMAINS, domain_loss, judge
from jtl.methods.adapt.views import Views
from jtl.methods.terms import at_step, checked, map_logits
from jtl.methods.views import needs
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables, from_linen
from jtl.networks import part
from jtl.nn.layers import Conv
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Key, Params, Schedule, Stats


def advent(critic: Model | None = None, weight: float | Schedule = 0.001, *, name: str = "critic") -> Objective:
    """The alignment `½ mean_source −log D(I) + ½ mean_target −log(1 − D(I)) + λ mean_target −log D(I)`.

    `I_ic = −p_ic log p_ic / log C` is the map of weighted self-information, one channel per class. The first two terms
    train the critic alone, on maps that are held constant. The last trains the network alone, with the critic held
    constant: target maps shall look like those of the source. Means are over patches, one for each logit of the critic.
    Use `optim.scale` to give the critic its own learning rate.

    Args:
      critic: a model from maps [batch, height, width, classes] of the size of the network's output to one logit per
        patch, [batch, h, w, 1], positive for the source; None for `patch_critic()`. `adapt(...).init` initialises it.
      weight: λ, a number or a function of the step.
      name: name of the critic's parameters and of its terms.

    Returns:
      An alignment with the terms `<name>_source`, `<name>_target` and `<name>_fooled`, and the metrics of `dann`, whose
      rows are here patches.

    Raises:
      ValueError: for an invalid weight; while tracing, for a missing view, outputs that are not maps of logits, or a
        critic whose output is not one logit per patch.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> task = jtl.tasks.segmentation(3, width=4, reads=jtl.reads.whole("stage1", "stage2"))
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=task.head)
      >>> terms = [jtl.alignments.advent(jtl.alignments.patch_critic((4,)))]
      >>> objective = jtl.adapt(net, task.loss, terms, metrics=task.metrics, ignore=task.ignore)
      >>> x = jnp.zeros((2, 16, 16, 3))
      >>> batch = {"source": {"x": x, "y": jnp.zeros((2, 16, 16), int)}, "target": {"x": x}}
      >>> objective.init(jax.random.key(0), batch).params["critic"]["conv1"]["kernel"].shape
      (4, 4, 3, 4)

    Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation, 2019, arXiv
    1811.12833.
    """
    checked(weight, name)
    model = patch_critic() if critic is None else critic

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        needs(views, DOMAINS, name)
        strength = at_step(weight, step)
        maps = {d: self_information(map_logits(views, d, name)[0]) for d in DOMAINS}
        shown = {d: jax.lax.stop_gradient(m) for d, m in maps.items()}
        terms, aux = judge(model, name, params, stats, views, shown, key, maps=True)
        fixed = jax.lax.stop_gradient(part(Variables(params, stats), name))
        z, _ = model.apply(fixed, maps["target"], train=True, key=rng.stream(key, f"{name}_fooled"))
        terms[f"{name}_fooled"] = mean(domain_loss(z[..., 0], 1.0), views["target"].mask).scale(strength)
        return terms, aux._replace(metrics={**aux.metrics, f"{name}_weight": jnp.asarray(strength, jnp.float32)})

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        needs(views, DOMAINS[:1], name)
        shape = jax.eval_shape(lambda view: map_logits({"source": view}, "source", name)[0], views["source"])
        return complete(named(model, name), key, jnp.zeros(shape.shape, shape.dtype), given)

    return Objective(alignment, init)


def self_information(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """`−p_c log p_c / log C` of each class, whose sum over the classes is the entropy over the largest one.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.advent import self_information
      >>> self_information(jnp.array([0.0, 0.0])).tolist()
      [0.5, 0.5]
    """
    logp = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    there = ~jnp.isneginf(logp)  # 0 log 0 = 0
    found = jnp.where(there, jnp.exp(logp), 0) * jnp.where(there, logp, 0)
    return -found / math.log(logits.shape[-1])


def patch_critic(widths: Sequence[int] = (64, 128, 256, 512)) -> Model:
    """A critic of maps: 4x4 convolutions of stride 2 with leaky ReLUs (slope 0.2), then another one to one logit.

    Each convolution halves a map, rounded up, so small maps end as one patch.

    Args:
      widths: channels of the convolutions before the last.

    Raises:
      ValueError: for a width below 1.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> critic, maps = jtl.alignments.patch_critic((4, 8)), jnp.zeros((2, 32, 20, 3))
      >>> critic.apply(critic.init(jax.random.key(0), maps), maps, train=False)[0].shape
      (2, 4, 3, 1)

    Vu et al., 2019, arXiv 1811.12833, section 4.2; the default widths are theirs.
    """
    numbers.whole(1, **numbers.each("widths", widths))
    return from_linen(_PatchCritic(tuple(widths)))


class _PatchCritic(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x, train: bool):
        del train  # training makes no difference
        x = jnp.asarray(x)
        for i, width in enumerate(self.widths):
            x = nn.leaky_relu(Conv(width, 4, 2, "SAME", bias=True, name=f"conv{i + 1}")(x), 0.2)
        return Conv(1, 4, 2, "SAME", bias=True, name="out")(x)
