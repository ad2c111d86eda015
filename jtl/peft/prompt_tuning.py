"""Prompt tuning: learned tokens before a text."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl.model import ADAPTER, Model, Variables
from jtl.ops import mean_of_tokens
from jtl.peft.attach import Adapter
from jtl.transform.intercept import Call, intercepted
from jtl.typing import Key, Output, Params, Stats


def prompt_tuning(
    count: int, *, words: Sequence[int] | None = None, pool: Literal["text", "prompt"] = "text"
) -> Adapter:
    """Prompt tuning of BERT, GPT-2 and Llama: `f([P; E(ids)])` with learned embeddings P before those of the words.

    The prompt takes the first positions, the text those after it, and every token sees the prompt. The features are
    those of the text alone, in its length: no mean and no pooled token includes the prompt.

    Args:
      count: number of the prompt's tokens; they count towards the longest text that the network takes.
      words: ids whose embeddings are the initial P, such as those of a sentence that describes the task; None draws
        words from the whole vocabulary.
      pool: "text" as above; "prompt", for a network whose `pooled` is its first token, such as BERT's, pools the
        prompt's first token in place of the text's, as PEFT's classifiers do.

    Returns:
      An adapter with the parameter `prompt` [count, width] at `words`. It cannot be merged.

    Raises:
      ValueError: for a count below 1, and another number of words; at `attach`, for a network without word embeddings
        at `words/embedding`, and for ids that it lacks; when called, for an input that is not text or has `segments` or
        `places`; at `merge`.

    Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning, 2021, arXiv 2104.08691.

    Example:
      >>> import jax, jtl, numpy as np
      >>> net = jtl.backbones.gpt2(jtl.backbones.Size(8, 1, 2, 16), vocabulary=30, positions=12)
      >>> x = {"ids": np.ones((1, 5), np.int32), "mask": np.ones((1, 5), bool)}
      >>> adapter = jtl.peft.prompt_tuning(3)
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(0), x), adapter, jax.random.key(1))
      >>> net.apply(variables, x, train=False)[0]["last"].shape, variables.params["adapter"]["words"]["prompt"].shape
      ((1, 5, 8), (3, 8))
    """
    if count < 1:
        raise ValueError(f"count={count}: give at least 1 token")
    if words is not None and len(words) != count:
        raise ValueError(f"words={list(words)} are {len(words)}: give count={count} of them, or None")
    if pool not in ("text", "prompt"):
        raise ValueError(f"pool={pool!r}: give 'text' or 'prompt'")

    def init(key: Key, path: str, own: Params) -> Params:
        table = own["embedding"]
        if words is None:
            ids = jax.random.randint(key, (count,), 0, len(table))
        elif min(words) < 0 or max(words) >= len(table):
            raise ValueError(f"words={list(words)}: {path!r} has the ids 0 to {len(table) - 1}")
        else:
            ids = jnp.asarray(words)
        return {"prompt": jnp.asarray(table)[ids]}

    def merge(params: Params, path: str, own: Params) -> Params:
        del params, own
        raise ValueError(f"the prompt at {path!r} is tokens of the input, which no parameters of the network replace")

    def around(backbone: Model, paths: tuple[str, ...]) -> Model:
        return _prompted(backbone, paths[0], count, pool == "text")

    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": count, "pool": pool}
    return Adapter(("words",), init, None, merge, config, takes=_is_embedding, around=around)


def _is_embedding(own: Params) -> bool:
    return hasattr(own.get("embedding"), "shape")


def _prompted(backbone: Model, path: str, count: int, as_text: bool) -> Model:
    class Prompting:
        def __init__(self):
            self.count = 0

        def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
            y = run(*args, **kwargs)
            if call.method != "__call__":
                return y
            if call.path == path:
                self.count += 1
                prompt = call.variables.params[ADAPTER][path]["prompt"].astype(y.dtype)
                return jnp.concatenate([_repeated(prompt[None], len(y)), y[:, count:]], 1)
            if as_text and call.path == _last(call.variables.params):
                # A network that pools its first token finds the text's first token there.
                return jnp.concatenate([jnp.repeat(y[:, count : count + 1], count, 1), y[:, count:]], 1)
            return y

    inner = intercepted(backbone, Prompting, f"the module {path!r} is not called, so the prompt has no effect")

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        features, stats = inner.apply(variables, _longer(x, count), train=train, key=key)
        return _shorter(features, jnp.asarray(x["mask"]), count), stats

    return backbone._replace(apply=apply, parts=None)


def _last(params: Params) -> str:
    numbers = [int(name.removeprefix("block")) for name in params if re.fullmatch(r"block\d+", name)]
    return f"block{max(numbers)}" if numbers else ""


def _longer(x: Any, count: int) -> dict[str, Array]:
    """The input with room for the prompt before it."""
    if not isinstance(x, Mapping) or not {"ids", "mask"} <= set(x) <= {"ids", "mask", "types"}:
        given = sorted(x) if isinstance(x, Mapping) else type(x).__name__
        raise ValueError(f"the input is {given}: prompt tuning takes a dict of 'ids', 'mask' and, for pairs, 'types'")
    arrays = {name: jnp.asarray(value) for name, value in x.items()}
    # The ids of the prompt are a word of the text, because RoBERTa gives padding no position.
    word = jnp.where(arrays["mask"], arrays["ids"], 0).max(1, keepdims=True)
    first = {"ids": word, "mask": jnp.ones_like(word, bool), "types": jnp.zeros_like(word)}
    return {
        name: jnp.concatenate([jnp.repeat(first[name].astype(value.dtype), count, 1), value], 1)
        for name, value in arrays.items()
    }


def _shorter(features: Mapping[str, Any], mask: Array, count: int) -> dict[str, Any]:
    """The features of the text alone."""
    known = {"last", "mean", "pooled", "logits"}
    others = [name for name in features if name not in known and not re.fullmatch(r"stage\d+", name)]
    if others:
        raise ValueError(f"the features {others} of this network cannot be told apart from those of the prompt")
    found = {name: y if name in ("mean", "pooled") else y[:, count:] for name, y in features.items()}
    return found | ({"mean": mean_of_tokens(found["last"], mask)} if "mean" in found else {})


def _repeated(rows: Array, batch: int) -> Array:
    return jnp.broadcast_to(rows, (batch, *rows.shape[1:]))
