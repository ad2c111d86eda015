"""A network as two pure functions."""

import functools
import inspect
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jtl import ops
from jtl._tracing import scope
from jtl._tracing.dce import pruned
from jtl.reads import Read
from jtl.typing import Key, Output, Params, Stats

ADAPTER = "adapter"
"""The name under which a model holds the parameters of interceptors, which belong to none of its modules."""


class Variables(NamedTuple):
    """The variables of a network: parameters change by gradient, statistics without a gradient."""

    params: Params
    stats: Stats


class Model(NamedTuple):
    """A network as two pure functions, in the form of an optax optimizer.

    Args:
      init: `init(key, x) -> Variables` from one example batch (shapes matter, values do not).
      apply: `apply(variables, x, *, train, key) -> (output, stats)`; with `train=False` the statistics come
        back as they were, and no key is needed.
      reads: the features of the backbone that it takes, if it is a head.
      parts: the backbone and the heads by name, if it is a `network`.
      classes: the names of the output's classes in their order, if they are known, as for `jtl.load` or a task's head;
        data whose classes have names are then matched by name.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Output, Stats]]
    reads: Read = Read()
    parts: Any = None  # a mapping of names to models; `Any`, because tyro reads the fields of recipes
    classes: Any = None  # a tuple of names, or None


def from_linen(module: Any) -> Model:
    """Converts a flax.linen module to a `Model`.

    The module is called as `module(x, train=...)`. Its "params" are the parameters, its "batch_stats" the statistics,
    and it draws from the random stream "dropout". Floating inputs are cast to the dtype of the parameters: a model
    computes in that dtype, so casting the parameters gives mixed precision. Parameters under `adapter/` belong to
    interceptors (`jtl.transform.intercept`): the module neither sees them nor takes their dtype. Flax's own BatchNorm
    sees the whole batch under `pmap` too.

    Raises:
      ValueError: at init, if the module makes a collection that jtl would not carry along, or parameters named
        `adapter`.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jtl
      >>> class Body(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, train):
      ...         return {"pooled": nn.relu(nn.Dense(8)(x))}
      >>> body = jtl.from_linen(Body())
      >>> sorted(body.init(jax.random.key(0), jnp.ones((2, 5))).params["Dense_0"])
      ['bias', 'kernel']
    """

    def init(key: Key, x: Any) -> Variables:
        def run(key: Key, x: Any) -> Any:
            return dict(module.init({"params": key, "dropout": key}, x, train=False))

        made = pruned(run, key, x)  # flax computes the outputs too, and compiles each operation separately
        params, stats = made.pop("params", {}), made.pop("batch_stats", {})
        if made:
            raise ValueError(
                f"{type(module).__name__} makes the collections {sorted(made)}; only params and batch_stats are kept"
            )
        if ADAPTER in params:
            raise ValueError(
                f"{type(module).__name__} names a module {ADAPTER!r}, which is kept for interceptors: rename it"
            )
        return Variables(_plain(params), _plain(stats))

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        from flax.linen import intercept_methods

        params = {name: part for name, part in variables.params.items() if name != ADAPTER}
        inputs = {"params": params, "batch_stats": variables.stats}
        rngs = {} if key is None else {"dropout": key}
        x = cast_floating(x, dtype_of(params))
        if not train:
            with _told(x):
                return module.apply(inputs, x, train=False, rngs=rngs), variables.stats
        with ExitStack() as changes:
            changes.enter_context(intercept_methods(_over_devices))
            if scope.any_frozen():
                changes.enter_context(intercept_methods(_frozen_evaluates))
            changes.enter_context(_told(x))
            out, new = module.apply(inputs, x, train=True, rngs=rngs, mutable=["batch_stats"])
        return out, _plain(new.get("batch_stats", {}))

    return Model(init, apply)


def from_nnx(build: Callable[[Any], Any]) -> Model:
    """Converts a flax.nnx module to a `Model`.

    Args:
      build: `build(rngs) -> module`, such as a class whose only missing argument is `rngs`. The module is called as
        `module(x)`; its `train()` and `eval()` set the mode. `nnx.Param` are parameters, every other variable is a
        statistic (the counters of random streams are not: keys are given at every call).

    Example:
      >>> import jtl
      >>> from flax import nnx
      >>> head = jtl.from_nnx(lambda rngs: nnx.Linear(8, 3, rngs=rngs))
    """
    from flax import nnx

    def parts(module: Any) -> Any:
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    def init(key: Key, x: Any) -> Variables:
        del x
        _, params, _, stats = parts(build(nnx.Rngs(params=key, dropout=key)))
        return Variables(_named(nnx.to_pure_dict(params)), _named(nnx.to_pure_dict(stats)))

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        # Only the structure is needed here: no array is made, and under jit this runs while tracing.
        module = nnx.eval_shape(lambda: build(nnx.Rngs(params=0, dropout=0)))
        (module.train if train else module.eval)()
        if train and scope.any_frozen():
            for path, inner in nnx.iter_graph(module):
                if isinstance(inner, nnx.Module) and scope.frozen(tuple(map(str, path))):
                    inner.eval()
        if train and scope.quiet():
            for _, inner in nnx.iter_graph(module):
                if isinstance(inner, nnx.Dropout):
                    inner.eval()
        definition, params, random, stats = parts(module)
        _fill(nnx, params, variables.params)
        _fill(nnx, stats, variables.stats)
        used = jax.random.key(0) if key is None else key
        random = jax.tree_util.tree_map_with_path(functools.partial(_drawn, used), random)
        module = nnx.merge(definition, params, random, stats)
        for _, norm in nnx.iter_graph(module):
            if isinstance(norm, nnx.BatchNorm):
                norm.axis_name = norm.axis_name or ops.batch_axis()
        out = module(cast_floating(x, dtype_of(variables.params)))
        if not train:
            return out, variables.stats
        return out, _named(nnx.to_pure_dict(parts(module)[3]))

    return Model(init, apply)


@contextmanager
def _told(x: Any) -> Iterator[None]:
    """Adds to flax's error about a parameter that does not fit the input the input's shape and the expected layout."""
    from flax.errors import ScopeParamShapeError

    try:
        yield
    except ScopeParamShapeError as error:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        what = str(error).split(" (https")[0]
        raise ValueError(
            f"an input of shape {shapes[0] if len(shapes) == 1 else shapes} does not fit the parameters: {what}"
            " Images are [batch, height, width, channels], with as many channels as the weights were made for; vectors"
            " are [batch, width]"
        ) from error


_EVALUATION = {"train": False, "use_running_average": True, "deterministic": True}
"""The arguments that put a module of jtl, flax's BatchNorm and flax's Dropout into evaluation mode."""


def _frozen_evaluates(run: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Runs a module without trained parameters in evaluation mode, so that its running statistics stay."""
    module = context.module
    if not scope.frozen(module.path):
        return run(*args, **kwargs)
    taken = [name for name in inspect.signature(context.orig_method).parameters if name != "self"]
    changed = {name: getattr(module, name) for name in _EVALUATION if getattr(module, name, None) is not None}
    for name, value in _EVALUATION.items():
        if name in taken and name not in changed:
            place = taken.index(name)
            if place < len(args):
                args = (*args[:place], value, *args[place + 1 :])
            else:
                kwargs = {**kwargs, name: value}
    with _set_for_a_call(module, {name: _EVALUATION[name] for name in changed}):
        return run(*args, **kwargs)


@contextmanager
def _set_for_a_call(module: Any, values: dict[str, Any]) -> Iterator[None]:
    """Sets attributes of a bound module, whose dataclass is frozen, for one call only."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        object.__setattr__(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)


def _over_devices(run: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Runs flax's BatchNorm over the rows of all devices if a mapped batch is traced; any other method unchanged."""
    from flax.linen import BatchNorm

    norm, axis = context.module, ops.batch_axis()
    if axis is None or not isinstance(norm, BatchNorm) or norm.axis_name is not None:
        return run(*args, **kwargs)
    with _set_for_a_call(norm, {"axis_name": axis}):
        return run(*args, **kwargs)


def preprocessed(model: Model, change: Callable[[Key | None, Any], Any]) -> Model:
    """The model with a preprocessing function applied to its inputs, on the device, in training and evaluation.

    Args:
      model: any model.
      change: `change(None, x) -> x`, such as `data.augment.normalise(mean, std)`, which takes uint8 images.

    Example:
      >>> import jtl
      >>> normalise = jtl.data.augment.normalise((0.5,), (0.5,))
      >>> body = jtl.preprocessed(jtl.backbones.conv4(8), normalise)
    """

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        return model.apply(variables, change(None, x), train=train, key=key)

    parts = model.parts
    if parts is not None:  # `features` and `frozen_stats` build the network again from its parts
        parts = {**parts, "backbone": preprocessed(parts["backbone"], change)}
    return model._replace(init=lambda key, x: model.init(key, change(None, x)), apply=apply, parts=parts)


def evaluated(model: Model) -> Model:
    """The model, always in evaluation mode: running statistics are used and not updated, and dropout is off.

    Its gradients are those of evaluation mode.

    Example:
      >>> import jtl
      >>> body = jtl.evaluated(jtl.backbones.conv4(8))
    """

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        del train, key
        return model.apply(variables, x, train=False, key=None)

    parts = model.parts
    if parts is not None:
        parts = {name: evaluated(part) for name, part in parts.items()}
    return model._replace(apply=apply, parts=parts)


def cast_floating(tree: Any, dtype: Any) -> Any:
    """Casts every floating leaf to `dtype`; integers, booleans and keys stay as they are."""

    def cast(a):
        return a.astype(dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a

    return jax.tree.map(lambda a: cast(a if hasattr(a, "astype") else jnp.asarray(a)), tree)


def upcast(tree: Any) -> Any:
    """Casts every floating leaf of fewer than 32 bits to float32, for sums of many small numbers."""
    return jax.tree.map(lambda a: cast_floating(a, jnp.promote_types(a.dtype, jnp.float32)), tree)


def dtype_of(params: Params) -> Any:
    """The floating dtype of a tree of parameters; float32 if it has no floating leaves."""
    found = [leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.result_type(*found) if found else jnp.float32


def _plain(tree: Any) -> Any:
    return {k: _plain(v) for k, v in tree.items()} if hasattr(tree, "items") else tree


def _named(tree: Any) -> Any:
    return {str(k): _named(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _drawn(key: Key, path: Any, like: Any) -> Any:
    """The state of a random stream at the start of a call: its own key, derived from its path, and a count of 0."""
    if not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jnp.zeros(like.shape, like.dtype)
    own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
    return jax.random.split(own, like.shape) if like.shape else own  # layers stacked by nnx.vmap have one key each


def _fill(nnx: Any, state: Any, values: Any) -> None:
    def unnamed(like, values):
        return {k: unnamed(v, values[str(k)]) for k, v in like.items()} if isinstance(like, dict) else values

    nnx.replace_by_pure_dict(state, unnamed(nnx.to_pure_dict(state), values))
