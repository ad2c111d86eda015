"""A network is two pure functions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops, rng
from jtl._tracing.dce import pruned
from jtl.typing import Key, Output, Params, Stats


class Variables(NamedTuple):
    """What a network is made of: parameters learn by gradient, statistics change without one."""

    params: Params
    stats: Stats


class Model(NamedTuple):
    """A network as two pure functions, as optax has it for optimizers.

    Args:
      init: `init(key, x) -> Variables` from one example batch (shapes matter, values do not).
      apply: `apply(variables, x, *, train, key) -> (output, stats)`; with `train=False` the statistics come
        back as they were, and no key is needed.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Output, Stats]]


def from_linen(module: Any) -> Model:
    """A flax.linen module as a `Model`.

    The module is called as `module(x, train=...)`. Its "params" are the parameters, its "batch_stats" the
    statistics, and it draws from the random stream "dropout". Floating inputs are cast to the dtype of the
    parameters: a model computes in the dtype of its parameters, so mixed precision is a cast of those. Flax's own
    BatchNorm sees the whole batch under `pmap` too.

    Raises:
      ValueError: at init, where the module makes a collection that jtl would not carry along.
    """

    def init(key: Key, x: Any) -> Variables:
        def run(key: Key, x: Any) -> Any:
            return dict(module.init({"params": key, "dropout": key}, x, train=False))

        made = pruned(run, key, x)  # flax computes the outputs too, each operation compiled for itself
        params, stats = made.pop("params", {}), made.pop("batch_stats", {})
        if made:
            raise ValueError(
                f"{type(module).__name__} makes the collections {sorted(made)}; only params and batch_stats are kept"
            )
        return Variables(_plain(params), _plain(stats))

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        from flax.linen import intercept_methods

        inputs = {"params": variables.params, "batch_stats": variables.stats}
        rngs = {} if key is None else {"dropout": key}
        x = cast_floating(x, dtype_of(variables.params))
        if not train:
            return module.apply(inputs, x, train=False, rngs=rngs), variables.stats
        with intercept_methods(_over_devices):
            out, new = module.apply(inputs, x, train=True, rngs=rngs, mutable=["batch_stats"])
        return out, _plain(new.get("batch_stats", {}))

    return Model(init, apply)


def from_nnx(build: Callable[[Any], Any]) -> Model:
    """A flax.nnx module as a `Model`.

    Args:
      build: `build(rngs) -> module`, as a class whose only missing argument is `rngs`. The module is called as
        `module(x)`; its `train()` and `eval()` set the mode. `nnx.Param` are parameters, every other variable
        is a statistic (the counters of random streams are not: keys are given at every call).
    """
    from flax import nnx

    def parts(module: Any) -> Any:
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    def init(key: Key, x: Any) -> Variables:
        del x
        _, params, _, stats = parts(build(nnx.Rngs(params=key, dropout=key)))
        return Variables(_named(nnx.to_pure_dict(params)), _named(nnx.to_pure_dict(stats)))

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        # Only the structure is wanted here: no array is made, and under jit this runs while tracing.
        module = nnx.eval_shape(lambda: build(nnx.Rngs(params=0, dropout=0)))
        (module.train if train else module.eval)()
        definition, params, random, stats = parts(module)
        _fill(nnx, params, variables.params)
        _fill(nnx, stats, variables.stats)
        used = jax.random.key(0) if key is None else key
        random = jax.tree.map(
            lambda s: used if jnp.issubdtype(s.dtype, jax.dtypes.prng_key) else jnp.zeros(s.shape, s.dtype), random
        )
        module = nnx.merge(definition, params, random, stats)
        for _, norm in nnx.iter_graph(module):
            if isinstance(norm, nnx.BatchNorm):
                norm.axis_name = norm.axis_name or ops.batch_axis()
        out = module(cast_floating(x, dtype_of(variables.params)))
        if not train:
            return out, variables.stats
        return out, _named(nnx.to_pure_dict(parts(module)[3]))

    return Model(init, apply)


def _over_devices(run: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Flax's BatchNorm over all devices' rows, where a mapped batch is traced; any other method as it is."""
    from flax.linen import BatchNorm

    norm, axis = context.module, ops.batch_axis()
    if axis is None or not isinstance(norm, BatchNorm) or norm.axis_name is not None:
        return run(*args, **kwargs)
    object.__setattr__(norm, "axis_name", axis)  # a bound module is frozen, and this call alone is another
    try:
        return run(*args, **kwargs)
    finally:
        object.__setattr__(norm, "axis_name", None)


def preprocessed(model: Model, change: Callable[[Key | None, Any], Any]) -> Model:
    """The model of inputs that are changed first, on the device, in training and in evaluation alike.

    Args:
      model: any.
      change: `change(None, x) -> x`, as `data.augment.normalise(mean, std)`, which takes uint8 images.
    """

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        return model.apply(variables, change(None, x), train=train, key=key)

    return Model(lambda key, x: model.init(key, change(None, x)), apply)


def init(key: Key, x: Any, *, backbone: Model, **others: Model) -> Variables:
    """Initialises a backbone and everything that sits on its features, as ONE tree.

    Args:
      key: each part draws from a stream of its own name, so adding a part does not change the others.
      x: one example batch for the backbone.
      backbone: its parameters stand under `backbone/`.
      **others: models of the pooled features [batch, dim], each under its own name: `head=`, `critic=`.

    Returns:
      Variables with `params[name]` and, where a part has any, `stats[name]`.
    """
    made = {"backbone": backbone.init(rng.stream(key, "backbone"), x)}
    if others:

        def run(variables: Variables, x: Any) -> Any:
            return backbone.apply(variables, x, train=False, key=None)[0]["pooled"]

        shape = jax.eval_shape(run, made["backbone"], x)
        pooled = jnp.zeros(shape.shape, shape.dtype)
        made |= {name: model.init(rng.stream(key, name), pooled) for name, model in others.items()}
    return Variables({n: v.params for n, v in made.items()}, {n: v.stats for n, v in made.items() if v.stats})


def part(variables: Variables, name: str) -> Variables:
    """One part of the tree, by its top-level name, as a model's own variables.

    Raises:
      ValueError: where there are no parameters of that name.
    """
    if name not in variables.params:
        raise ValueError(f"no parameters under {name!r}; there are {sorted(variables.params)}")
    return Variables(variables.params[name], variables.stats.get(name, {}))


def pick(features: dict[str, Array], names: str | Sequence[str], x: Any = None) -> Float[Array, "batch dim"]:
    """One feature vector per example, from one named feature or from several side by side.

    Maps [b, h, w, c] and sequences [b, n, d] are averaged over their positions; those of texts over their tokens and
    those of sounds over their frames, so that padding changes nothing.

    Args:
      features: by name; `frames` [b, n] tells which positions are of a sound.
      names: of those wanted.
      x: the input that they are of; the `mask` [b, n] of a text tells its tokens.

    Raises:
      ValueError: for a name that the backbone does not return.
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    missing = [n for n in wanted if n not in features]
    if missing or not wanted:
        raise ValueError(f"no feature {missing or 'was named'}; the backbone returns {sorted(features)}")
    given = [features.get("frames"), x.get("mask") if isinstance(x, Mapping) else None]
    masks = [jnp.asarray(mask) for mask in given if mask is not None]

    def vector(f: Array) -> Array:
        mask = next((mask for mask in masks if f.ndim == 3 and mask.shape == f.shape[:2]), None)
        if mask is not None:
            return ops.mean_of_tokens(f, mask)
        return f.mean(tuple(range(1, f.ndim - 1))) if f.ndim > 2 else f

    vectors = [vector(features[name]) for name in wanted]
    return vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors, -1)


def cast_floating(tree: Any, dtype: Any) -> Any:
    """Every floating leaf as `dtype`; integers, booleans and keys as they are."""

    def cast(a):
        return a.astype(dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a

    return jax.tree.map(lambda a: cast(a if hasattr(a, "astype") else jnp.asarray(a)), tree)


def widened(tree: Any) -> Any:
    """Every leaf of a floating type of less than 32 bits as float32, for sums of many small numbers."""
    return jax.tree.map(lambda a: cast_floating(a, jnp.promote_types(a.dtype, jnp.float32)), tree)


def dtype_of(params: Params) -> Any:
    """The floating dtype of a tree of parameters: float32 where there are none."""
    found = [leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.result_type(*found) if found else jnp.float32


def _plain(tree: Any) -> Any:
    return {k: _plain(v) for k, v in tree.items()} if hasattr(tree, "items") else tree


def _named(tree: Any) -> Any:
    return {str(k): _named(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _fill(nnx: Any, state: Any, values: Any) -> None:
    def unnamed(like, values):
        return {k: unnamed(v, values[str(k)]) for k, v in like.items()} if isinstance(like, dict) else values

    nnx.replace_by_pure_dict(state, unnamed(nnx.to_pure_dict(state), values))
