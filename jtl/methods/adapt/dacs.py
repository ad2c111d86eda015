"""DACS: a teacher labels target images, on which half of the classes of a source image are pasted."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl import losses, ops, rng
from jtl.checked import within
from jtl.data.geometry import moves
from jtl.data.mixing import class_mix
from jtl.methods.adapt.dann import DOMAINS
from jtl.methods.adapt.own_norms import refuse_own
from jtl.methods.adapt.teachers import averaged
from jtl.methods.terms import checked, clean, in_turn, map_logits, view_of, weighted
from jtl.methods.views import View, Views
from jtl.metrics.accumulate import element_weights, mean
from jtl.model import Model, Variables
from jtl.nn.decoder import resized
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def dacs(
    net: Model,
    weight: float | Schedule = 1.0,
    *,
    momentum: float = 0.99,
    threshold: float = 0.968,
    augment: Callable[[Key, Any], Any] | None = None,
    name: str = "dacs",
) -> Objective:
    """The alignment `λ mean_ip w_ip · −log net(x_i)_p(y_ip)` over the pixels p of mixed images i, for segmentation.

    `x_i = M_i x_s + (1 − M_i) x_t` and `y_i = M_i y_s + (1 − M_i) ŷ_t`. M_i has a random half of the classes of the
    source image (`jtl.data.mixing.class_mix`). ŷ_t is the class that the teacher predicts at each pixel of the target.
    The teacher is `θ' ← m θ' + (1 − m) θ` after each step. It predicts without dropout, and is kept in the statistics
    under `name`.

    A pixel of the source has the weight 1, as in the authors' code, or that of the batch's `weights`. Pixels of the
    target have the weight `q_i`, the share of the pixels of their image at which the teacher's largest probability is
    at least τ. So without a confident pixel they do not count, and the pasted ones do.

    Row i of the target gets row i of the source's rows that count, which start over if they are fewer; microbatches,
    and the devices of `pmap_step`, pair their own rows. Pixels with the label to ignore, and those of weight 0, are not
    pasted; the authors' code draws this label like a class. Without a row of the source that counts nothing is pasted.
    The mixed images have a forward pass of their own, which does not update running statistics. Loss and confidence are
    at the resolution of the labels.

    Args:
      net: the network that `adapt` trains, with maps of logits.
      weight: λ, a number or a function of the step.
      momentum: m, in [0, 1). At step t the authors' code has min(m, 1 − 1/(t + 1)), so their teacher soon forgets the
        parameters of `init`; here their share is m^t.
      threshold: τ, in [0, 1].
      augment: `augment(key, x) -> x` of the mixed images that leaves pixels in their places, or None. The paper has
        colour jitter, such as `jtl.data.appearance.jitter`, and blur.
      name: name of the term, and of the teacher in the statistics.

    Returns:
      An alignment for `adapt` with the metric `<name>_confident`, the mean of q.

    Raises:
      ValueError: for a weight, momentum or threshold out of range, a model that is not a network, or an augmentation
        that may move pixels; at init, if `name` is taken; while tracing, for a missing view, outputs that are not maps
        of logits, labels that are not maps of the images' size, a source without rows, or a domain in `own_norms`.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> task = jtl.tasks.segmentation(3, width=4, reads=jtl.reads.whole("stage1", "stage2"))
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=task.head)
      >>> objective = jtl.adapt(net, task.loss, [jtl.alignments.dacs(net)], metrics=task.metrics, ignore=task.ignore)
      >>> x = jnp.zeros((2, 16, 16, 3))
      >>> batch = {"source": {"x": x, "y": jnp.zeros((2, 16, 16), int)}, "target": {"x": x}}
      >>> sorted(objective.init(jax.random.key(0), batch).stats)
      ['backbone', 'dacs']

    Tranheden et al., DACS: Domain Adaptation via Cross-domain Mixed Sampling, 2020, arXiv 2007.08702; the share of each
    image, and not of the batch, is that of Hoyer et al., DAFormer, 2021, arXiv 2111.14887.
    """
    checked(weight, name)
    within("[0, 1]", threshold=threshold)
    teacher = averaged(net, momentum, name)
    if augment is not None and moves(augment):
        raise ValueError(
            f"{name}: augment={augment} may move pixels, and their labels would stay: give one of jtl.data.appearance,"
            " or wrap a function that leaves them as jtl.data.geometry.Photometric"
        )

    def run(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        refuse_own(params, DOMAINS, name)
        source, target = (view_of(views, d, name) for d in DOMAINS)
        z, kept = map_logits(views, "target", name)
        y, weights = _labels(source, name)
        draw, size = rng.stream(key, name), (y.shape[1], y.shape[2])
        below = ops.without_masked(jnp.asarray(target.x), target.mask)
        said, _ = clean(teacher.predict(params, stats, below, rng.stream(draw, "teacher")), target.mask)
        labels, share = pseudo_map(resized(said, size), threshold)
        first = in_turn(ops.kept(source.mask, len(y)), len(below))
        above, y, weights = (jnp.take(a, first, axis=0) for a in (jnp.asarray(source.x), y, weights))
        x, y, pasted = class_mix(rng.stream(draw, "mix"), above, y, below, labels, z.shape[-1], weights=weights)
        x = x if augment is None else augment(rng.stream(draw, "augment"), x)
        out, _ = net.apply(Variables(params, stats), x, train=True, key=draw)
        mixed, _ = clean(out.output, target.mask)
        w = jnp.where(pasted, weights, share[:, None, None])
        value = mean(w * losses.cross_entropy(resized(mixed, size), y), kept)
        return {name: weighted(value, weight, step)}, Aux(stats, {f"{name}_confident": mean(share, kept)})

    return Objective(run, teacher.init, teacher.commit)


def pseudo_map(logits: Array, threshold: float) -> tuple[Array, Array]:
    """The most likely class of each pixel, and the share of the pixels of each map at which it has p ≥ τ.

    Args:
      logits: [batch, height, width, classes].
      threshold: τ.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.dacs import pseudo_map
      >>> labels, share = pseudo_map(jnp.array([[[[9.0, 0.0], [0.0, 1.0]]]]), 0.968)
      >>> labels.tolist(), share.tolist()
      ([[[0, 1]]], [0.5])
    """
    sure = jax.nn.softmax(logits).max(-1) >= threshold
    return logits.argmax(-1), sure.mean((1, 2), dtype=logits.dtype)


def _labels(source: View, who: str) -> tuple[Array, Array]:
    """The source's label maps, and a weight for each pixel: 0 in rows that do not count."""
    y, size = source.y, getattr(source.x, "shape", ())[:3]
    whole = hasattr(y, "dtype") and jnp.issubdtype(y.dtype, jnp.integer)
    if not whole or len(size) < 3 or y.shape != size or not size[0]:
        raise ValueError(
            f"{who}: the source has inputs of {jax.tree.map(jnp.shape, source.x)} and labels of"
            f" {jax.tree.map(jnp.shape, y)}: give images [batch, height, width, channels] and a class for each pixel,"
            " integers [batch, height, width], of one row or more, which a mask may leave out"
        )
    given = element_weights(size, source.mask, source.rows.get("weights"))
    weights = jnp.ones((), jnp.float32) if given is None else given.astype(jnp.float32)
    return jnp.asarray(y), jnp.broadcast_to(weights.reshape(weights.shape + (1,) * (3 - weights.ndim)), size)
