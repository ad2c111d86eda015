"""Masked image consistency: the network predicts from parts of an image what a teacher predicts from the whole."""

from collections.abc import Callable
from typing import Any

import jax

from jtl import losses, ops, rng
from jtl.checked import within
from jtl.data.appearance import mask_patches
from jtl.data.geometry import moves
from jtl.methods.adapt.dacs import pseudo_map
from jtl.methods.adapt.own_norms import refuse_own
from jtl.methods.adapt.teachers import averaged
from jtl.methods.terms import checked, clean, map_logits, row_logits, view_of, weighted
from jtl.methods.views import Views
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables
from jtl.nn.decoder import resized
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def mic(
    net: Model,
    weight: float | Schedule = 1.0,
    *,
    patch: int,
    ratio: float = 0.7,
    value: float = 0.0,
    momentum: float = 0.999,
    threshold: float = 0.968,
    augment: Callable[[Key, Any], Any] | None = None,
    view: str = "target",
    name: str = "mic",
) -> Objective:
    """The alignment `λ mean_i q_i · −log net(M_i ⊙ x_i)(ŷ_i)`, ŷ_i what a teacher predicts on the whole image x_i.

    M_i masks each patch of b x b pixels with probability r (`jtl.data.appearance.mask_patches`). The teacher is
    `θ' ← m θ' + (1 − m) θ` after each step. It predicts without dropout, and is kept in the statistics under `name`.

    With one prediction per image, q_i is the teacher's largest probability. With one per pixel, the loss is a mean over
    pixels too, at the resolution of the images. Then q_i is the share of the pixels of image i at which the teacher's
    largest probability is at least τ: an image without such a pixel does not count.

    The masked images have a forward pass of their own, which does not update running statistics.

    Args:
      net: the network that `adapt` trains, with logits [batch, classes] or maps of them; its inputs are images.
      weight: λ, a number or a function of the step.
      patch: b, by which height and width of the images can be divided. The paper has 64, for images of 512 and more;
        of an image of 224 the authors' code masks patches of 56.
      ratio: r, in [0, 1].
      value: the value of masked pixels in the units of the network's input. If the network normalises inside, as
        `jtl.preprocessed` does, 0 is black, and not the mean as in the paper.
      momentum: m, in [0, 1). The paper has 0.999 for segmentation, and the authors' code 0.9 for classification.
        At step t their code has min(m, 1 − 1/(t + 1)), so their teacher soon forgets the parameters of `init`; here the
        share of these is m^t, so give a smaller m to short runs that start with a new head.
      threshold: τ, in [0, 1]; it has no effect with one prediction per image.
      augment: `augment(key, x) -> x` of the images before they are masked, or None. The paper has colour jitter, such
        as `jtl.data.appearance.jitter`, and blur. With one prediction per pixel it must leave pixels in their places.
      view: the unlabelled view.
      name: name of the term, and of the teacher in the statistics.

    Returns:
      An alignment for `adapt` with the metric `<name>_quality`, the mean of q.

    Raises:
      ValueError: for a number out of range, or a model that is not a network; at init, if `name` is taken; while
        tracing, for a view that is missing or in `own_norms`, outputs that are neither logits nor maps of them, images
        that do not divide into patches or cannot hold the value, or maps with an augmentation that may move pixels.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.dann(), jtl.alignments.mic(net, patch=4)])
      >>> x = jnp.zeros((4, 16, 16, 3))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}}
      >>> sorted(objective.init(jax.random.key(0), batch).stats)
      ['backbone', 'mic']

    Hoyer et al., MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation, 2022, arXiv 2212.01322.
    """
    checked(weight, name)
    within("[0, 1]", threshold=threshold)
    teacher, hide = averaged(net, momentum, name), mask_patches(patch, ratio, value)

    def run(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        refuse_own(params, (view,), name)
        seen = view_of(views, view, name)
        maps = getattr(seen.output, "ndim", 2) == 4
        _, kept = (map_logits if maps else row_logits)(views, view, name)
        if maps and augment is not None and moves(augment):
            raise ValueError(
                f"{name}: augment={augment} may move pixels, and the teacher's labels would stay: give one of"
                " jtl.data.appearance, or wrap a function that leaves them as jtl.data.geometry.Photometric"
            )
        draw, x = rng.stream(key, name), ops.without_masked(seen.x, seen.mask)
        said, _ = clean(teacher.predict(params, stats, x, rng.stream(draw, "teacher")), seen.mask)
        shown = x if augment is None else augment(rng.stream(draw, "augment"), x)
        shown = hide(rng.stream(draw, "patches"), shown)
        out, _ = net.apply(Variables(params, stats), shown, train=True, key=draw)
        z, _ = clean(out.output, seen.mask)
        if maps:
            z, said = (resized(a, (x.shape[1], x.shape[2])) for a in (z, said))
            labels, quality = pseudo_map(said, threshold)
            values = quality[:, None, None] * losses.cross_entropy(z, labels)
        else:
            labels, quality = said.argmax(1), jax.nn.softmax(said).max(1)
            values = quality * losses.cross_entropy(z, labels)
        found = {f"{name}_quality": mean(quality, kept)}
        return {name: weighted(mean(values, kept), weight, step)}, Aux(stats, found)

    return Objective(run, teacher.init, teacher.commit)
