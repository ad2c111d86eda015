"""MEMO: the mean prediction over augmented copies of one input becomes certain."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops, rng
from jtl.checked import whole, within
from jtl.methods.adapt.test_time.mixed_norms import mixed
from jtl.methods.adapt.test_time.predictions import checked_logits, kept
from jtl.metrics.accumulate import Mean, mean
from jtl.metrics.certainty import diversity
from jtl.model import Model, Variables
from jtl.objective import Objective, init_of
from jtl.typing import Aux, Batch, Key, Params, Stats


def memo(net: Model, augment: Callable[[Key, Any], Any], *, views: int = 32, prior: float = 16.0) -> Objective:
    """The test-time objective `H(mean_v p(a_v(x)))`, with `views` augmented copies `a_v(x)` of the input x.

    The model should predict the same class for all copies, and with certainty. The method adapts to a single input, and
    each input starts from the source model: give batches of one row to an episodic stream. The rows of a larger batch
    share one step on the mean of their H, which is no longer the paper's method.

    BatchNorm normalises by `N/(N+1) r + 1/(N+1) s`, with N the prior, r the running statistics and s those of the
    copies. For the prediction, s are the statistics of the input itself. As in the authors' code, s has no gradient and
    its variance is unbiased. Rows that the mask leaves out contribute to s too. No running statistics change.

    The authors' copies are those of AugMix without its Jensen-Shannon loss: up to three operations in each of three
    chains, mixed with the image. Here `augment` determines them. A step has `views` forward and backward passes and one
    more forward pass.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].
      augment: `augment(key, x) -> x`, such as `jtl.data.augment.flip()`; it is called once for each copy, with its own
        key.
      views: number of copies; the authors use 32 for CIFAR-10 and 64 for ImageNet.
      prior: N; the authors use 16 for ImageNet. Infinity leaves the source's statistics, 0 takes the input's alone.

    Returns:
      A test-time objective on `{"x", "mask"}`, with optional mask. Its stream should train all parameters:
      `stream(memo(...), tx, trainable=jtl.select(".*"), episodic=True)`, with SGD at 0.005 for CIFAR-10 and 0.00025 for
      ImageNet.

    Raises:
      ValueError: for fewer than one view, or a negative prior; while tracing, for an output that is not [batch,
        classes], or a BatchNorm of flax.nnx.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> objective, x = jtl.test_time.memo(net, jtl.data.augment.flip(), views=4), jnp.ones((5, 16, 16, 3))
      >>> tx, all_of_them = optax.sgd(0.005), jtl.select(".*")
      >>> adapting = jtl.test_time.stream(objective, tx, trainable=all_of_them, episodic=True)
      >>> state = adapting.init(net.init(jax.random.key(0), x), jax.random.key(1), {"x": x[:1]})
      >>> state, logits = jax.lax.scan(adapting.step, state, {"x": x[:, None]})  # one row after the other
      >>> logits.shape
      (5, 1, 3)

    Zhang et al., MEMO: Test Time Robustness via Adaptation and Augmentation, 2022, arXiv 2110.09506.
    """
    whole(1, views=views)
    within("[0, inf]", prior=prior)
    mixing = mixed(net, 1 / (prior + 1), as_running=True)

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[Mean, Aux]:
        del step
        x = ops.without_masked(batch["x"], batch.get("mask"))

        def logits(x: Any) -> Any:
            return checked_logits(mixing.apply(Variables(params, stats), x, train=True, key=key)[0].output)

        output = logits(x)
        rows = kept(batch, len(output))
        keys = jax.random.split(rng.stream(key, "augment"), views)
        copies = jax.vmap(lambda k: augment(k, x))(keys)  # [views, batch, ...]
        seen = logits(jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:])), copies))
        seen = jnp.where(rows[None, :, None], seen.reshape((views, len(output), -1)), 0)
        return mean(jax.vmap(diversity, in_axes=1)(seen), rows), Aux(stats, {}, {"output": output})

    return Objective(run, init_of(net))
