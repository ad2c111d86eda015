"""Fourier domain adaptation: source images with the low-frequency amplitudes of target images."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jtl.checked import within
from jtl.methods.terms import clean, in_turn
from jtl.methods.views import needs
from jtl.objective import Objective, on
from jtl.typing import Batch, Key


def fda(objective: Objective | Callable, beta: float, *, source: str = "source", target: str = "target") -> Objective:
    """The objective on batches whose source images have the low-frequency amplitudes of target images.

    `x_s ← F⁻¹(M_β |F x_t| + (1 − M_β) |F x_s|, ∠F x_s)` for each channel, as in `fda_images`. Row i of the source gets
    the amplitudes of row i of the target's rows that count, which start over if they are fewer; microbatches, and the
    devices of `pmap_step`, pair their own rows. Labels stay. A target whose rows are all masked changes nothing.
    Evaluation uses another objective and is not affected.

    Give pixels of one range, such as [0, 1], and normalise inside the network, with `jtl.preprocessed`. Normalised
    images have means of either sign. Amplitudes have none, so such a source image would keep its own sign and could get
    the opposite of the target's mean. The new images are not clipped, so they may leave the range.

    `augmented(fda(objective, beta), augment)` swaps the amplitudes of augmented images. For several β, average the
    predictions of networks that are trained with one each, as the paper does; its term on the target is
    `minent(0.005, eta=2.0)`.

    Args:
      objective: an objective on batches of views, such as that of `adapt`, with or without alignments.
      beta: β, the half-size of the window as a share of the image's shorter side; the paper has 0.01, 0.05 and 0.09.
      source: the view whose images change.
      target: the view that gives the amplitudes.

    Raises:
      ValueError: for a β outside [0, 1]; while tracing, for a missing view, views whose x are not images of floats, of
        one size, or a mask that does not fit.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
      >>> objective = jtl.alignments.fda(jtl.adapt(net), 0.05)
      >>> x = jnp.ones((4, 16, 16, 3))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": 0.5 * x}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, aux = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)

    Yang and Soatto, FDA: Fourier Domain Adaptation for Semantic Segmentation, 2020, arXiv 2004.05498.
    """
    within("[0, 1]", beta=beta)

    def changed(batch: Batch, key: Key) -> dict[str, Any]:
        del key
        needs(batch, (source, target), "fda")
        old, styles = batch[source].get("x"), batch[target].get("x")
        _check(old, styles, (source, target))
        styles, kept = clean(styles, batch[target].get("mask"))
        styles = jnp.take(styles, in_turn(kept, len(old)), axis=0)
        x = jnp.where(kept.any(), fda_images(old, styles, beta), old)
        return {**batch, source: {**batch[source], "x": x}}

    return on(objective, changed)


def fda_images(
    source: Float[ArrayLike, "batch height width channels"],
    target: Float[ArrayLike, "_ _ _ _"],
    beta: float,
) -> Float[Array, "batch height width channels"]:
    """The images `F⁻¹(M |F x_t| + (1 − M) |F x_s|, ∠F x_s)`, F the Fourier transform of each channel.

    M is 1 at frequencies (k, l) of at most `b = ⌊β min(h, w)⌋` in both directions, in cycles per image. With b = 0 the
    mean alone is swapped, and with β = 0 nothing. Where the source's amplitude is 0, its phase counts as 0.

    Args:
      source: x_s, pixels that are not normalised; see `fda`.
      target: x_t, one for each source image.
      beta: β in [0, 1]; from 0.5 all amplitudes of a square image are swapped.

    Returns:
      Images in the dtype of the source.

    Raises:
      ValueError: for a β outside [0, 1], or images that are no floats or differ in shape.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> dark, bright = jnp.full((1, 8, 8, 1), 0.25), jnp.full((1, 8, 8, 1), 0.75)
      >>> float(jtl.alignments.fda_images(dark, bright, 0.1).mean())
      0.75
    """
    within("[0, 1]", beta=beta)
    _check(source, target, ("source", "target"))
    x, y = jnp.asarray(source), jnp.asarray(target)
    if len(x) != len(y):
        raise ValueError(f"fda: {len(x)} images of the source and {len(y)} of the target: give one for each")
    if beta == 0:
        return x
    wide = jnp.promote_types(x.dtype, jnp.float32)
    h, w = x.shape[1:3]
    # Half of the spectrum, because that of real numbers is symmetric; its window is symmetric too.
    ours, theirs = (jnp.fft.rfft2(a.astype(wide), axes=(1, 2)) for a in (x, y))
    amplitude = jnp.abs(ours)
    phase = jnp.where(amplitude > 0, ours / jnp.where(amplitude > 0, amplitude, 1), 1)
    change = jnp.where(_window(h, w, beta), phase * (jnp.abs(theirs) - amplitude), 0)
    # The change alone is transformed back, so equal amplitudes leave the image as it is to the last bit.
    return (x.astype(wide) + jnp.fft.irfft2(change, s=(h, w), axes=(1, 2))).astype(x.dtype)


def _window(h: int, w: int, beta: float) -> np.ndarray:
    b = math.floor(min(h, w) * beta)
    rows, columns = np.abs(np.fft.fftfreq(h, 1 / h)), np.arange(w // 2 + 1)
    return ((rows[:, None] < b + 0.5) & (columns[None] <= b))[None, :, :, None]


def _check(source: Any, target: Any, names: tuple[str, str]) -> None:
    for name, x in zip(names, (source, target), strict=True):
        if not hasattr(x, "dtype") or jnp.ndim(x) != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
            kind = f"{x.dtype} {jnp.shape(x)}" if hasattr(x, "dtype") else type(x).__name__
            raise ValueError(
                f"fda: x of {name!r} is {kind}; give images of floats [batch, height, width, channels], and divide"
                " integers by 255 first"
            )
    if source.shape[1:] != target.shape[1:]:
        raise ValueError(f"fda: images of {source.shape[1:]} and {target.shape[1:]}: give both domains one size")
