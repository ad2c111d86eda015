"""Adapters of the modules in a frozen backbone: attached, counted, merged and unmerged."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jtl import rng
from jtl.model import ADAPTER, Model, Variables
from jtl.networks import network
from jtl.params import flatten, unflatten
from jtl.transform.intercept import Call, OnEach, intercepted
from jtl.typing import Key, Params

log = logging.getLogger("jtl.peft")


def has_kernel(own: Params) -> bool:
    """Whether these are the parameters of a dense layer or a convolution."""
    return hasattr(own.get("kernel"), "shape")


class Adapter(NamedTuple):
    """An adapter as pure functions of one module, whose own parameters are `{"kernel": ..., "bias": ...}`.

    Args:
      where: regexes that match whole paths of modules in the backbone, such as `.*/attention/query`.
      init: `init(key, path, own) -> params`, the parameters of the adapter of one module.
      apply: `apply(params, run, x, own, call) -> y`; `run(x)` is the module's output without the adapter.
      merge: `merge(params, path, own) -> own`, parameters of the module that compute the same without an adapter.
      config: its entries in PEFT's `adapter_config.json`; empty if PEFT has no such adapter.
      shared: constants by name that all modules share and that are not parameters, such as VeRA's two matrices.
      rest: `rest(params, path, own) -> own`, the module's parameters after the adapter's first values are subtracted
        from them, as in PiSSA; None to keep them.
      takes: `takes(own) -> bool`, whether a module with these parameters can have such an adapter.
      around: `around(backbone, paths) -> backbone` adds the adapter at these modules if it does more than change their
        outputs, such as tokens that go through all blocks; `apply` is then None.
      within: regexes that must each match an adapted module, such as those for modules with another rank.
      unmerge: `unmerge(params, path, own) -> own`, the inverse of `merge`; None if there is none.
    """

    where: tuple[str, ...]
    init: Callable[[Key, str, Params], Params]
    apply: Callable[[Params, Callable, Any, Params, Call], Any] | None
    merge: Callable[[Params, str, Params], Params]
    config: Mapping[str, Any] = {}
    shared: Mapping[str, Any] = {}
    rest: Callable[[Params, str, Params], Params] | None = None
    takes: Callable[[Params], bool] = has_kernel
    around: Callable[[Model, tuple[str, ...]], Model] | None = None
    within: tuple[str, ...] = ()
    unmerge: Callable[[Params, str, Params], Params] | None = None


def attach(net: Model, variables: Variables, adapter: Adapter, key: Key) -> tuple[Model, Variables]:
    """Adds an adapter at every module of the backbone that the adapter's patterns match.

    The new parameters are at `backbone/adapter/<module path>/...` (`adapter/...` in a bare backbone); to train only
    them, use `jtl.select("backbone/adapter/.*")`. At the start the network computes the same as before, unless the
    adapter says otherwise. Other adapters may be attached to other modules afterwards. On a base in bfloat16 or float16
    the adapter's parameters are float32, and it is computed in the base's dtype. The number of added parameters is
    logged to "jtl.peft" at level INFO; `jtl.fit` starts by logging how many are trained.

    Args:
      net: a network of `jtl.network`, or a backbone, made of flax modules.
      variables: variables of `net`; they are not changed.
      adapter: such as `jtl.peft.lora(rank=8, where=(".*/attention/query",))`.
      key: key for the adapter's initial values; each module draws from a stream for its path.

    Returns:
      The network with adapters, and its variables. Their base is that of `variables`, but for kernels that the adapter
      starts from and leaves the rest of, as PiSSA does: these are other ones, and the log says so.

    Raises:
      ValueError: for a pattern that matches no module that the adapter takes, listing the modules; for a module that
        already has an adapter; when called, if a matched module's kernel is used without a call of that module.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8, 4)), head=jtl.heads.linear(3))
      >>> variables = net.init(jax.random.key(0), jnp.ones((2, 5)))
      >>> net, variables = jtl.peft.attach(net, variables, jtl.peft.lora(2, (".*",)), jax.random.key(1))
      >>> print(jtl.peft.summary(variables))
      2 adapted modules, 50 adapter parameters, 0.336 of all 149
    """
    base, put = _backbone(variables)
    paths = matched(base, adapter.where, adapter.takes)
    missed = [pattern for pattern in adapter.within if not any(re.fullmatch(pattern, path) for path in paths)]
    if missed:
        raise ValueError(f"the patterns {missed} match none of the adapted modules {paths}")
    there = base.get(ADAPTER, {})
    taken = sorted(set(paths) & {path.rpartition("/")[0] for path in flatten(there)})
    if taken:
        raise ValueError(f"the modules {taken} have an adapter already; attach one to each module, or merge it first")
    started = put(_started(base, adapter, paths, key))
    if log.isEnabledFor(logging.INFO):
        where = "backbone/adapter/.*" if "backbone" in variables.params else "adapter/.*"
        log.info("%s; jtl.select(%r) trains these alone", summary(started), where)
        if adapter.rest is not None:
            log.info("the adapter's first values were taken out of the kernels of these modules: %s", paths)
    if net.parts is None:
        return _adapted(net, adapter, paths), started
    parts = dict(net.parts)
    adapted = network(**parts | {"backbone": _adapted(parts["backbone"], adapter, paths)})
    return adapted._replace(classes=net.classes), started


def merge(variables: Variables, adapter: Adapter) -> Variables:
    """Merges an adapter into its base: variables that compute the same without it, with `W + scale · A B` for LoRA.

    It is pure: to continue with a separate adapter, keep the variables that you passed, or see `unmerge`.

    Args:
      variables: variables of a network that `attach` returned.
      adapter: the adapter that was attached.

    Raises:
      ValueError: if a pattern matches no module, or a matched module has no adapter.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.mlp((8,))
      >>> adapter = jtl.peft.lora(2, ("stage1/dense",))
      >>> adapted, variables = jtl.peft.attach(net, net.init(jax.random.key(0), jnp.ones((2, 5))), adapter,
      ...     jax.random.key(1))
      >>> sorted(jtl.peft.merge(variables, adapter).params)
      ['stage1']
    """
    base, put = _backbone(variables)
    flat, left = flatten(_without(base)), flatten(base.get(ADAPTER, {}))
    for path in matched(base, adapter.where, adapter.takes):
        params = {name.rpartition("/")[2]: left.pop(name) for name in list(left) if name.rpartition("/")[0] == path}
        if not params:
            raise ValueError(f"the module {path!r} has no adapter; give the adapter that was attached")
        own, before = adapter.merge(params, path, below(base, path)), below(base, path)
        flat |= {f"{path}/{name}": leaf.astype(before[name].dtype) for name, leaf in own.items()}
    return put({**unflatten(flat), **({ADAPTER: unflatten(left)} if left else {})})


def unmerge(variables: Variables, adapter: Adapter, params: Params) -> Variables:
    """The inverse of `merge`: splits merged variables into the base and the adapter, given the adapter's parameters.

    Use it if only the merged weights of the base are left, such as a file of them: `W = W' − scale · A B` for LoRA. If
    you still have the variables that `merge` was given, use those, because they are exact; the difference is only as
    exact as the dtype of the merged weights, with bfloat16 to 8 bits.

    Args:
      variables: the merged variables.
      adapter: the adapter that was merged.
      params: its parameters, the tree at `backbone/adapter` (`adapter` of a bare backbone) before the merge; parameters
        of other adapters in it are ignored.

    Raises:
      ValueError: for a module whose parameters are not in `params`, or that has an adapter and so is not merged; for an
        adapter without an inverse, such as DoRA, whose merge loses a norm, and bottlenecks and prompts, which do not
        merge; and for a factor of 0, which IA3 may learn, because the numbers that it multiplied are lost.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.mlp((8,))
      >>> adapter = jtl.peft.lora(2, ("stage1/dense",))
      >>> adapted, variables = jtl.peft.attach(net, net.init(jax.random.key(0), jnp.ones((2, 5))), adapter,
      ...     jax.random.key(1))
      >>> merged = jtl.peft.merge(variables, adapter)
      >>> sorted(jtl.peft.unmerge(merged, adapter, variables.params["adapter"]).params)
      ['adapter', 'stage1']
    """
    base, put = _backbone(variables)
    flat, beside, given = flatten(_without(base)), flatten(base.get(ADAPTER, {})), flatten(params)
    for path in matched(base, adapter.where, adapter.takes):
        mine = {name: leaf for name, leaf in given.items() if name.rpartition("/")[0] == path}
        if not mine:
            there = sorted({name.rpartition("/")[0] for name in given})
            raise ValueError(
                f"params hold no adapter of the module {path!r}, only of {there}: give the tree that stood at"
                " backbone/adapter before the merge"
            )
        if any(name.rpartition("/")[0] == path for name in beside):
            raise ValueError(f"the module {path!r} has an adapter, so none is merged into it; give merged variables")
        if adapter.unmerge is None:
            raise ValueError(
                f"the adapter of {path!r} has no inverse of a merge; use the variables with the adapter beside the"
                " base, which jtl.peft.merge does not change"
            )
        before = below(base, path)
        own = adapter.unmerge({name.rpartition("/")[2]: leaf for name, leaf in mine.items()}, path, before)
        flat |= {f"{path}/{name}": leaf.astype(before[name].dtype) for name, leaf in own.items()}
        beside |= mine
    return put({**unflatten(flat), ADAPTER: unflatten(beside)})


def summary(variables: Variables) -> str:
    """Returns one line with the number of adapted modules and of adapter parameters.

    Raises:
      ValueError: if there is no adapter.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 5)))
      >>> _, low = jtl.peft.attach(net, variables, jtl.peft.lora(2, (".*/dense",)), jax.random.key(1))
      >>> jtl.peft.summary(low)
      '1 adapted modules, 26 adapter parameters, 0.257 of all 101'
    """
    base, _ = _backbone(variables)
    found = flatten(base.get(ADAPTER, {}))
    if not found:
        raise ValueError("there is no adapter in these variables; jtl.peft.attach gives one")
    count = sum(leaf.size for leaf in found.values())
    total = sum(leaf.size for leaf in flatten(variables.params).values())
    modules = len({path.rpartition("/")[0] for path in found})
    return f"{modules} adapted modules, {count} adapter parameters, {count / total:.3f} of all {total}"


def not_zero(factor: Any, path: str) -> Any:
    """Checks the factor of a merge that is to be divided out again, except inside `jit`, and returns it.

    Raises:
      ValueError: if one of its numbers is 0.
    """
    if not isinstance(factor, Tracer) and not np.asarray(factor).all():
        places = np.flatnonzero(np.asarray(factor) == 0)
        raise ValueError(
            f"the adapter of {path!r} multiplied by 0 at {places[:5].tolist()}, so the numbers before the merge are"
            " lost; use the variables that jtl.peft.merge was given"
        )
    return factor


def patterns(given: Sequence[str], option: str = "where") -> tuple[str, ...]:
    """Returns regexes over module paths as a tuple.

    Raises:
      ValueError: for a single string, whose letters would each be a regex.
    """
    if isinstance(given, str):
        raise ValueError(f"{option}={given!r}: give a tuple of regexes")
    return tuple(given)


def matched(base: Params, where: Sequence[str], takes: Callable[[Params], bool] = has_kernel) -> list[str]:
    """The paths of modules that the patterns match, among those that an adapter takes.

    Raises:
      ValueError: for no pattern, and for patterns without a match; it names them and lists the modules.
    """
    parts = [path.split("/")[:-1] for path in flatten(_without(base))]
    every = dict.fromkeys("/".join(part[: i + 1]) for part in parts for i in range(len(part)))
    names = [path for path in every if takes(below(base, path))]
    if isinstance(where, str) or not where:
        raise ValueError(f"where={where!r}: give a tuple of regexes over module paths; there are {names}")
    missed = [pattern for pattern in where if not any(re.fullmatch(pattern, name) for name in names)]
    if missed:
        parts = [(pattern, name) for pattern in missed for name in names if re.search(pattern, name)]
        near = f"; {parts[0][0]!r} matches a part of {parts[0][1]!r}, and a whole path is wanted" if parts else ""
        raise ValueError(f"the patterns {missed} match no module; there are {names}{near}")
    return [name for name in names if any(re.fullmatch(pattern, name) for pattern in where)]


def wide(leaf: Any) -> Any:
    """Casts to float32 at least, because bfloat16's mantissa of 8 bits would lose an adapter's small steps."""
    low = jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.finfo(leaf.dtype).bits < 32
    return leaf.astype(jnp.float32) if low else leaf


def _started(base: Params, adapter: Adapter, paths: Sequence[str], key: Key) -> Params:
    """The backbone's parameters with the adapter's initial values."""
    flat = flatten(_without(base))
    made = {}
    for path in paths:
        own = below(base, path)
        params = adapter.init(rng.stream(key, path), path, jax.tree.map(wide, own))
        made |= {f"{path}/{name}": leaf for name, leaf in params.items()}
        if adapter.rest is not None:
            flat |= {f"{path}/{name}": leaf for name, leaf in adapter.rest(params, path, own).items()}
    return {**unflatten(flat), ADAPTER: unflatten(flatten(base.get(ADAPTER, {})) | made)}


def _adapted(backbone: Model, adapter: Adapter, paths: Sequence[str]) -> Model:
    """The backbone with the adapter at these paths; its `init` makes the adapter's parameters too."""
    made = adapter.around(backbone, tuple(paths)) if adapter.around else _beside(backbone, adapter, frozenset(paths))

    def init(key: Key, x: Any) -> Variables:
        base = backbone.init(key, x)
        return base._replace(params=_started(base.params, adapter, paths, key))

    return made._replace(init=init)


def _beside(backbone: Model, adapter: Adapter, wanted: frozenset[str]) -> Model:
    """The backbone with `adapter.apply` in place of these modules."""
    changed = adapter.apply
    if changed is None:
        raise ValueError("an adapter has apply or around; this one has neither")

    class Adapting(OnEach):
        def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
            path = call.path if call.method == "__call__" else ""
            if path not in wanted:
                return run(*args, **kwargs)
            self.saw(path)
            params = call.variables.params
            own, (x, *rest) = below(params, path), args
            return changed(below(params[ADAPTER], path), lambda x: run(x, *rest, **kwargs), x, own, call)

    missing = (
        f"not every one of the modules {sorted(wanted)} is called as a module, so their adapters have no effect;"
        " modules of flax.nnx cannot be adapted, only those of flax.linen"
    )
    return intercepted(backbone, lambda: Adapting(wanted), missing)


def _backbone(variables: Variables) -> tuple[Params, Callable[[Params], Variables]]:
    """The backbone's parameters, and a function that replaces them."""
    if "backbone" not in variables.params:
        return variables.params, lambda base: variables._replace(params=base)
    params = variables.params
    return params["backbone"], lambda base: variables._replace(params={**params, "backbone": base})


def _without(base: Params) -> Params:
    return {name: part for name, part in base.items() if name != ADAPTER}


def below(tree: Params, path: str) -> Params:
    """The part of a tree at a path, as the parameters of a module."""
    for name in path.split("/"):
        tree = tree[name]
    return tree
