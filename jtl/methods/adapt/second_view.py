"""Makes a second view of the same examples on the device: the strong augmentation that self-training uses."""

from collections.abc import Callable
from typing import Any

from jtl import rng
from jtl.methods.views import needs
from jtl.objective import Objective, on
from jtl.typing import Batch, Key


def second_view(
    objective: Objective | Callable, augment: Callable[[Key, Any], Any], *, of: str = "target", name: str = "strong"
) -> Objective:
    """The objective on batches with an additional view: the examples of a view in the same order, augmented.

    The random draws are a function of the run's key and the step. Apply weak augmentations of all views outside:
    `augmented(second_view(objective, strong), weak)` strongly augments the weakly augmented view, as FixMatch does.

    Args:
      objective: an objective of `adapt`, with alignments that use the new view.
      augment: `augment(key, x) -> x`, like those of `jtl.data.augment`.
      of: the view whose `x` and `mask` are used.
      name: name of the new view.

    Raises:
      ValueError: while tracing, for a batch without the view `of`, or with a view that already has the new name.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.alignments import fixmatch, second_view
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
      >>> objective = second_view(jtl.adapt(net, alignments=[fixmatch()]), jtl.data.augment.noise(0.3))
      >>> x = jnp.zeros((4, 16, 16, 3))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}}
      >>> variables = objective.init(jax.random.key(0), batch)

    Sohn et al., FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, 2020, arXiv 2001.07685.
    """

    def seen(batch: Batch, key: Key) -> dict[str, Any]:
        needs(batch, [of], "second_view")
        if name in batch:
            raise ValueError(f"the batch has a view {name!r} already: give the new one another name")
        kept = {} if batch[of].get("mask") is None else {"mask": batch[of]["mask"]}
        return {**batch, name: {"x": augment(rng.stream(rng.stream(key, "second_view"), name), batch[of]["x"]), **kept}}

    return on(objective, seen)
