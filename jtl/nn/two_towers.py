"""Embeddings of images and texts in one space."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import rng
from jtl._tracing import scope
from jtl.model import Model, Output, Stats, Variables
from jtl.typing import Key


def two_towers(image: Model, text: Model, *, bias: bool = False) -> Model:
    """A network that computes similarities of images and texts, `s cos(f(image), g(text)) + b`.

    The input is {"image": [images, ...], "text": the input of the text tower}. Features: `image` [images, width] and
    `text` [texts, width], scaled to length 1; `logits` [images, texts]; `pooled`, the images again. Parameters:
    `image/...`, `text/...`, `log_scale`, the logarithm of s, and, if there is one, `bias`.

    Args:
      image: the image tower f, of which `pooled` is used.
      text: the text tower g, as wide.
      bias: whether there is a bias b, which a loss on single pairs needs.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.two_towers(jtl.backbones.mlp((4,)), jtl.backbones.mlp((4,)))
      >>> x = {"image": jnp.ones((2, 5)), "text": jnp.ones((3, 6))}
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["logits"].shape
      (2, 3)
    """

    def init(key: Key, x: Any) -> Variables:
        made = {"image": image.init(rng.stream(key, "image"), x["image"])}
        made["text"] = text.init(rng.stream(key, "text"), x["text"])
        # The papers' initial values: scales of 1 / 0.07 and 10, and a bias by which most pairs do not match.
        start = {"log_scale": jnp.log(10.0), "bias": jnp.asarray(-10.0)} if bias else {"log_scale": jnp.log(1 / 0.07)}
        return Variables(
            {n: v.params for n, v in made.items()} | start, {n: v.stats for n, v in made.items() if v.stats}
        )

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        params, stats = variables
        found, new = {}, {}
        for name, tower in (("image", image), ("text", text)):
            own = Variables(params[name], stats.get(name, {}))
            stream = None if key is None else rng.stream(key, name)
            with scope.within(name):
                features, new[name] = tower.apply(own, x[name], train=train, key=stream)
            found[name] = unit(features["pooled"])
        logits = jnp.exp(params["log_scale"]) * found["image"] @ found["text"].T
        logits = logits + params["bias"] if bias else logits
        return found | {"logits": logits, "pooled": found["image"]}, {n: s for n, s in new.items() if s}

    return Model(init, apply)


def normalised(model: Model) -> Model:
    """The model with `pooled` scaled to length 1.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> net = jtl.backbones.normalised(jtl.backbones.identity())
      >>> out, _ = net.apply(jtl.Variables({}, {}), jnp.array([[3.0, 4.0]]), train=False)
      >>> [round(value, 3) for value in out["pooled"][0].tolist()]
      [0.6, 0.8]
    """

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        features, stats = model.apply(variables, x, train=train, key=key)
        return features | {"pooled": unit(features["pooled"])}, stats

    return Model(model.init, apply)


def unit(x: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
    """Scales vectors to length 1, `x / |x|`."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
