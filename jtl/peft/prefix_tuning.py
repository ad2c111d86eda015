"""Prefix tuning: learned keys and values that every token of a transformer attends to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl.model import ADAPTER, Model, Variables
from jtl.nn.grouped_attention import GroupedAttention
from jtl.nn.text_inputs import counted
from jtl.nn.transformer import Attention
from jtl.peft.attach import Adapter, below, patterns
from jtl.transform.intercept import Call, OnEach, intercepted
from jtl.typing import Key, Output, Params, Stats


def prefix_tuning(count: int, where: Sequence[str] = (r"block\d+/attention",), *, deviation: float = 0.02) -> Adapter:
    """Prefix tuning of transformers: `softmax(Q [K'; K]ᵀ / √d) [V'; V]` with learned K' and V' [count, width].

    Every attention has its own keys and values; no token is added, so all features keep their length. The positions of
    a text's tokens begin at `count`, as after a text of that length, and K' is not rotated, even if keys are.

    Args:
      count: number of keys and values at each attention.
      where: regexes over paths of attention modules, each with `query`, `key`, `value` and `out`.
      deviation: standard deviation of their normal initialisation. The network does not start unchanged; the smaller
        the deviation, the more uniform is the attention to them.

    Returns:
      An adapter with the parameters `key` and `value` at each attention. It cannot be merged.

    Raises:
      ValueError: for a count below 1 and a deviation that is not positive; at `attach`, for a pattern that matches no
        attention; when called, for a text that is longer than the remaining positions; at `merge`.

    Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, 2021, arXiv 2101.00190; Liu et al.,
    P-Tuning v2, 2021, arXiv 2110.07602 (the same for classification).

    Example:
      >>> import jax, jtl, numpy as np
      >>> net = jtl.backbones.vit(jtl.backbones.Size(12, 2, 3, 20), image=8, patch=4)
      >>> variables = net.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
      >>> net, variables = jtl.peft.attach(net, variables, jtl.peft.prefix_tuning(5), jax.random.key(1))
      >>> print(jtl.peft.summary(variables))
      2 adapted modules, 240 adapter parameters, 0.073 of all 3292
    """
    where = patterns(where)
    if count < 1:
        raise ValueError(f"count={count}: give at least 1")
    if not deviation > 0:
        raise ValueError(f"deviation={deviation}: give a positive number")

    def init(key: Key, path: str, own: Params) -> Params:
        del path
        draws = zip(("key", "value"), jax.random.split(key), strict=True)
        kernels = {name: own[name]["kernel"] for name in ("key", "value")}
        return {
            name: deviation * jax.random.normal(draw, (count, kernels[name].shape[1]), kernels[name].dtype)
            for name, draw in draws
        }

    def merge(params: Params, path: str, own: Params) -> Params:
        del params, own
        raise ValueError(f"the prefix at {path!r} is more keys and values, which no kernel gives")

    def around(backbone: Model, paths: tuple[str, ...]) -> Model:
        return _prefixed(backbone, frozenset(paths), count)

    config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": count, "prefix_projection": False}
    return Adapter(where, init, None, merge, config, takes=_is_attention, around=around)


def _is_attention(own: Params) -> bool:
    return all("kernel" in own.get(name, {}) for name in ("query", "key", "value", "out"))


def _prefixed(backbone: Model, wanted: frozenset[str], count: int) -> Model:
    class Prefixing(OnEach):
        def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
            if call.method == "__call__" and call.path == "positions":
                return run(_moved(args[0], count, call), *args[1:], **kwargs)
            attends = isinstance(call.module, Attention | GroupedAttention) and call.method == "attend"
            if not attends or call.path not in wanted:
                return run(*args, **kwargs)
            self.saw(call.path)
            params = below(call.variables.params[ADAPTER], call.path)
            query, key, value, mask, rng, bias = args

            def longer(name: str, y: Any) -> Any:
                heads = params[name].astype(y.dtype).reshape(1, count, -1, y.shape[-1])
                heads = jnp.repeat(heads, y.shape[2] // heads.shape[2], 2)  # for groups of heads that share a key
                return jnp.concatenate([jnp.broadcast_to(heads, (len(y), *heads.shape[1:])), y], 1)

            def before(a: Any, value: Any) -> Any:
                return None if a is None else jnp.pad(a, ((0, 0),) * 3 + ((count, 0),), constant_values=value)

            return run(query, longer("key", key), longer("value", value), before(mask, True), rng, before(bias, 0))

    missing = f"not every one of the modules {sorted(wanted)} attends, so their prefixes have no effect"
    inner = intercepted(backbone, lambda: Prefixing(wanted), missing)

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        if isinstance(x, Mapping) and "words" in variables.params and "positions" not in variables.params:
            mask = jnp.asarray(x["mask"])  # positions are rotations, which the input determines
            x = {**x, "places": jnp.asarray(x.get("places", counted(mask))) + count}
        return inner.apply(variables, x, train=train, key=key)

    return backbone._replace(apply=apply, parts=None)


def _moved(index: Any, count: int, call: Call) -> Any:
    """The rows of the position table for tokens after the prefix."""
    rows = call.variables.params["positions"]["embedding"].shape[0]
    pad = getattr(call.module.parent, "pad", None)  # RoBERTa counts from pad + 1
    most = rows - count - (0 if pad is None else pad + 1)
    if index.shape[-1] > most:
        raise ValueError(f"texts of {index.shape[-1]} tokens: a prefix of {count} leaves positions for {most}")
    return index + count
