"""The diagonal of the Fisher information: how much each parameter matters for what a network predicts."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jtl import rng
from jtl.methods.near import near
from jtl.methods.views import classes_of_rows
from jtl.metrics.accumulate import element_weights
from jtl.model import Model, Variables, upcast
from jtl.networks import called
from jtl.params import flatten, merge, select, split
from jtl.typing import Key, Mask, Params, Stats, Tree

EVERYTHING = select(".*")
LABELS = ("every", "drawn", "given")


def fisher_diagonal(
    net: Model,
    variables: Variables,
    batches: Iterable[Mapping[str, Any]],
    *,
    labels: Literal["every", "drawn", "given"] = "every",
    key: Key | None = None,
    trainable: Mask | Tree = EVERYTHING,
) -> tuple[Params, Params]:
    """The diagonal `F_j = mean_i E_y (∂/∂θ_j log p_i[y])²` over the rows i of a data set, in evaluation mode.

    `labels` says where y comes from. "every" takes the expectation under the network's own p_i, as a sum over all
    classes: this is the true Fisher information. It costs a forward pass and as many backward passes for each row as
    there are classes. "drawn" draws one y ~ p_i for each row, which estimates the true Fisher information without bias
    by one backward pass. "given" takes the labels of the batches. This is the empirical Fisher, which is another
    quantity: it equals the true one only where the network predicts the distribution of the labels, and goes to 0 where
    it fits every label; a label beyond the classes gives NaN.

    A gradient is squared for each row, and not for each batch, so the size of the batches does not matter. Rows are
    computed one after another, so the memory is that of a few gradients. `jtl.test_time.fisher_information` is the
    variant of EATA, whose squares are those of whole batches.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].
      variables: the network's variables after it was trained on the old task.
      batches: batches `{"x", "y", "mask", "weights"}` of the old task; `y` is read only for "given", and the last two,
        both [batch], are optional.
      labels: "every", "drawn" or "given".
      key: key of the draws for "drawn".
      trainable: the parameters whose F is computed, such as `jtl.select("backbone/.*")`.

    Returns:
      F, in at least float32, and a copy of the parameters, both restricted to `trainable`, for the argument `fisher`
      of `jtl.finetuning.ewc`.

    Raises:
      ValueError: for another `labels`, for "drawn" without a key, for an output that is not logits [batch, classes],
        for "given" without integer labels, for a selected parameter that is no float, or if no row counts.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> start = net.init(jax.random.key(0), jnp.ones((4, 5)))
      >>> fisher, params = jtl.finetuning.fisher_diagonal(net, start, [{"x": jnp.ones((4, 5))}])
      >>> sorted(fisher)
      ['backbone', 'head']

    Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, 2017, arXiv 1612.00796. Kunstner et al.,
    Limitations of the empirical Fisher approximation for natural gradient descent, 2019, arXiv 1905.12558.
    """
    if labels not in LABELS:
        raise ValueError(f"labels={labels!r}: give one of {LABELS}")
    if labels == "drawn" and key is None:
        raise ValueError("fisher_diagonal: labels='drawn' needs a key")
    part, rest = split(variables.params, trainable)
    floats_only(part, "fisher_diagonal", "trainable")
    squares = jax.jit(lambda *args: _squares(net, labels, *args))
    placed = jax.device_put((part, rest, variables.stats))  # once, because each call would copy NumPy arrays
    put, total, count = near(placed), jax.tree.map(jnp.zeros_like, upcast(placed[0])), jnp.zeros(())
    for i, batch in enumerate(batches):
        wanted = {name: batch[name] for name in ("x", "mask", "weights") if batch.get(name) is not None}
        if labels == "given":
            wanted["y"] = classes_of_rows(batch.get("y"), "fisher_diagonal", "batch")
        own = None if key is None else rng.stream(key, "fisher", i)
        total, count = jax.tree.map(jnp.add, (total, count), squares(*placed, put(wanted), own))
    if not float(count) > 0:
        raise ValueError("fisher_diagonal needs at least one row that counts")
    return jax.tree.map(lambda t: t / count.astype(t.dtype), total), jax.tree.map(jnp.array, part)


def _squares(net: Model, labels: str, part: Params, rest: Params, stats: Stats, batch: Any, key: Any) -> Any:
    """The sum over a batch's rows of their weights times their squares, and the sum of the weights."""
    rows = len(jax.tree.leaves(batch["x"])[0])
    weights = element_weights((rows,), batch.get("mask"), batch.get("weights"))
    weights = jnp.ones(rows) if weights is None else weights.astype(jnp.float32)

    def of_row(total: Params, row: Any) -> tuple[Params, None]:
        x, y, weight, key = row

        def log_p(part: Params) -> Any:
            z = called(net, Variables(merge(part, rest), stats), jax.tree.map(lambda a: a[None], x), train=False)[0]
            shape = jax.tree.map(jnp.shape, z.output)
            if not isinstance(z.output, jax.Array) or z.output.ndim != 2:
                raise ValueError(f"fisher_diagonal needs logits [batch, classes]; this network's output is {shape}")
            return jax.nn.log_softmax(upcast(z.output))[0]

        values, back = jax.vjp(log_p, part)
        p, classes = jnp.exp(values), jnp.arange(len(values))

        def add(total: Params, one: Any) -> tuple[Params, None]:
            label, share = one
            one_hot = (classes == label).astype(values.dtype)
            (slope,) = back(jnp.where((label >= 0) & (label < len(values)), one_hot, jnp.nan))

            def leaf(t: Any, g: Any) -> Any:
                # A NaN in a row that does not count stays out.
                return t + jnp.where(share > 0, share.astype(t.dtype) * g.astype(t.dtype) ** 2, 0)

            return jax.tree.map(leaf, total, slope), None

        if labels == "every":
            return jax.lax.scan(add, total, (classes, jnp.where(weight > 0, weight * p, 0)))
        label = jax.random.categorical(key, values) if labels == "drawn" else y
        return add(total, (label, weight))

    keys = None if key is None else jax.random.split(key, rows)
    start = jax.tree.map(jnp.zeros_like, upcast(part))
    return jax.lax.scan(of_row, start, (batch["x"], batch.get("y"), weights, keys))[0], weights.sum()


def floats_only(params: Params, who: str, option: str) -> None:
    """Refuses selected parameters without a gradient, such as quantised ones.

    Raises:
      ValueError: naming the first parameter that is no float.
    """
    for path, w in flatten(params).items():
        dtype = jnp.result_type(w)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"{who}: {path!r} is of {dtype}, which has no gradient: `{option}` must not select it")


def fisher_distance(params: Params, fisher: Params, start: Params) -> Any:
    """`Σ_j F_j (θ_j − θ⁰_j)²` over the parameters in F, with θ⁰ rounded as θ is, so that it is 0 at the start."""
    flat, there = flatten(params), flatten(start)
    parts = []
    for path, f in flatten(fisher).items():
        w = flat[path]
        wide = jnp.promote_types(w.dtype, jnp.float32)
        parts.append(jnp.sum(f * (w.astype(wide) - there[path].astype(w.dtype).astype(wide)) ** 2))
    return jnp.sum(jnp.stack(parts))
