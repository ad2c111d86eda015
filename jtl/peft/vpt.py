"""Visual prompt tuning: learned tokens in addition to the patches of a vision transformer."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtl.model import ADAPTER, Model, Variables
from jtl.peft.attach import Adapter
from jtl.transform.intercept import Call, OnEach, intercepted
from jtl.typing import Key, Output, Params, Stats


def vpt(count: int, *, deep: bool = True) -> Adapter:
    """VPT of vision transformers: blocks see `[x; P]`, with learned tokens P after the class token and the patches.

    Shallow prompts enter the first block and go through all; deep ones are new at every block, and their outputs are
    dropped. They have no position. They are removed after the last block, and from every `stageN`, so that no mean and
    no attention pooling sees them.

    Args:
      count: number of tokens, at each block if `deep`.
      deep: whether every block has its own prompts, which is better in most tasks of the paper.

    Returns:
      An adapter with the parameter `prompt` [count, width] at `block1`, or at every block. It cannot be merged.

    Raises:
      ValueError: for a count below 1; at `attach`, for a network without blocks at `block1`, ...; when called on
        texts; at `merge`.

    Jia et al., Visual Prompt Tuning, 2022, arXiv 2203.12119. P is uniform in ±√(3 / width), which equals the paper's
    ±√(6 / (3 patch² + width)) for a ViT-B/16.

    Example:
      >>> import jax, jtl, numpy as np
      >>> net = jtl.backbones.vit(jtl.backbones.Size(12, 2, 3, 20), image=8, patch=4)
      >>> variables = net.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
      >>> net, variables = jtl.peft.attach(net, variables, jtl.peft.vpt(5), jax.random.key(1))
      >>> print(jtl.peft.summary(variables))
      2 adapted modules, 120 adapter parameters, 0.038 of all 3172
    """
    if count < 1:
        raise ValueError(f"count={count}: give at least 1 token")

    def init(key: Key, path: str, own: Params) -> Params:
        del path
        kernel = own["attention"]["query"]["kernel"]
        limit = (3 / kernel.shape[0]) ** 0.5
        return {"prompt": jax.random.uniform(key, (count, kernel.shape[0]), kernel.dtype, -limit, limit)}

    def merge(params: Params, path: str, own: Params) -> Params:
        del params, own
        raise ValueError(f"the prompt at {path!r} is tokens of the input, which no parameters of the network replace")

    def around(backbone: Model, paths: tuple[str, ...]) -> Model:
        return _prompted(backbone, frozenset(paths), count)

    where = (r"block\d+",) if deep else ("block1",)
    return Adapter(where, init, None, merge, takes=_is_block, around=around)


def _is_block(own: Params) -> bool:
    return "kernel" in own.get("attention", {}).get("query", {}) and "norm1" in own


def _prompted(backbone: Model, wanted: frozenset[str], count: int) -> Model:
    class Prompting(OnEach):
        def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
            if call.method != "__call__" or not re.fullmatch(r"block\d+", call.path):
                return run(*args, **kwargs)
            x, *rest = args
            last = f"block{sum(bool(re.fullmatch(r'block[0-9]+', name)) for name in call.variables.params)}"
            if call.path in wanted:
                self.saw(call.path)
                prompt = call.variables.params[ADAPTER][call.path]["prompt"].astype(x.dtype)
                image = x if call.path == "block1" else x[:, :-count]
                x = jnp.concatenate([image, jnp.broadcast_to(prompt[None], (len(x), *prompt.shape))], 1)
            y = run(x, *rest, **kwargs)
            return y[:, :-count] if call.path == last else y

    inner = intercepted(backbone, lambda: Prompting(wanted), f"not every one of the blocks {sorted(wanted)} is called")

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        if not hasattr(x, "shape"):
            raise ValueError(f"the input is {type(x).__name__}: vpt takes images; texts take prompt_tuning")
        features, stats = inner.apply(variables, x, train=train, key=key)
        length = features["last"].shape[1]
        return {name: y[:, :length] if name.startswith("stage") else y for name, y in features.items()}, stats

    return backbone._replace(apply=apply, parts=None)
