"""Augmentation on the device, before any objective."""

from collections.abc import Callable, Mapping
from typing import Any

from jtl import rng
from jtl.data.geometry import moved_together, moves, spatial
from jtl.objective import Objective, on
from jtl.typing import Batch, Key


def augmented(
    objective: Objective | Callable, augment: Callable[[Key, Any], Any], *, ignore: int | None = None
) -> Objective:
    """The objective on batches whose `x` is augmented; evaluation uses another objective and is not affected.

    The random draws are a function of the run's key and the step. In a batch of parts (source and target, support and
    query) each part is augmented independently.

    Labels that refer to places in the image move with it. In `y`, an array or a tree, and in `weights`, these are maps
    [batch, height, width, ...] of the image's height and width, and boxes [batch, n, 4] in pixels `x0, y0, x1, y1`
    under the name `boxes`. Maps take the nearest label, and the weight of a pixel from outside the image is 0. A box
    becomes the smallest one around its moved corners, clipped at the borders. A box that is left without area becomes
    `0, 0, 0, 0`; in the same dict its entry in `classes` becomes -1 and its entry in `weights` 0. All other labels stay
    as they are.

    Args:
      objective: any objective.
      augment: `augment(key, x) -> x`, like those of `jtl.data.augment`.
      ignore: the label that pixels from outside the image get in label maps, such as the one that
        `finetune(..., ignore=255)` leaves out.

    Raises:
      ValueError: while tracing, for a batch that has no `x`; for maps or boxes if the augmentation, which the message
        names, cannot move them; for maps whose size differs from the image's; for a map without `ignore` if it is
        needed.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.data import augment
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((4, 16, 16, 3)), "y": jnp.zeros(4, int)}
      >>> objective = jtl.augmented(jtl.finetune(net), augment.compose(augment.flip(), augment.crop(16, padding=2)))
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, aux = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)
    """

    def changed(batch: Batch, key: Key) -> dict[str, Any]:
        parts = {
            n: changed(part, rng.stream(key, n))
            for n, part in batch.items()
            if isinstance(part, Mapping) and n not in ("x", "y", "weights")
        }
        if not parts and "x" not in batch:
            raise ValueError(f"nothing to augment: the batch holds {sorted(batch)}, no 'x'")
        return {**batch, **parts, **(own(batch, key) if "x" in batch else {})}

    def own(batch: Batch, key: Key) -> dict[str, Any]:
        x, labels = batch["x"], {name: batch[name] for name in ("y", "weights") if batch.get(name) is not None}
        if not moves(augment) or not any(spatial(labels, x)):
            return {"x": augment(key, x)}
        x, labels = moved_together(augment, key, x, labels, {"y": ignore, "weights": 0})
        return {"x": x, **labels}

    return on(objective, lambda batch, key: changed(batch, rng.stream(key, "augment")))
