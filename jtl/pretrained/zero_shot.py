"""Makes networks from two towers: each tower alone, and a zero-shot classifier from class names."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import heads
from jtl.backbones.registry import FAMILIES, Config
from jtl.model import ADAPTER, Variables
from jtl.nn.two_towers import unit
from jtl.pretrained.context import check_context, text_embeddings
from jtl.pretrained.load import Pretrained
from jtl.typing import Params


def towers(loaded: Pretrained) -> tuple[Pretrained, Pretrained]:
    """Returns the image tower and the text tower of CLIP or SigLIP, each as a network without a head.

    Args:
      loaded: the result of `jtl.load` for both towers, possibly with `variables` replaced by trained ones.

    Raises:
      ValueError: for a network without two towers, or variables with adapters, which are to be merged first.

    Example:
      >>> import jtl
      >>> clip = jtl.load("hf:openai/clip-vit-base-patch32")  # doctest: +SKIP
      >>> image, text = jtl.pretrained.zero_shot.towers(clip)  # doctest: +SKIP
    """
    params = loaded.variables.params["backbone"]
    if not {"image", "text"} <= set(params):
        raise ValueError(f"a {loaded.config.model_type} has no two towers; load a CLIP or a SigLIP model")
    if ADAPTER in params:
        raise ValueError("the towers have adapters: give variables=jtl.peft.merge(variables, adapter)")
    config: Any = loaded.config
    return (
        _alone(loaded, config.vision_config, params["image"])._replace(preprocessing=loaded.preprocessing),
        _alone(loaded, config.text_config, params["text"])._replace(tokenizer=loaded.tokenizer),
    )


def zero_shot(
    loaded: Pretrained, texts: Mapping[str, Any], labels: Sequence[str] | None = None, *, context: Any = None
) -> Pretrained:
    """Makes a zero-shot image classifier: the normalised image tower with a linear head, `z = s W x + b`.

    The rows of W are the texts' embeddings, so the logits equal those of the two towers. The head and the tower can be
    trained further like any other network.

    Args:
      loaded: the result of `jtl.load` for CLIP or SigLIP.
      texts: {"ids", "mask"}, each [classes, tokens], or [classes, templates, tokens] for several texts per class,
        whose embeddings are averaged.
      labels: the names of the classes.
      context: vectors that take the place of the first words of each text, [words, width] or [classes, words, width],
        such as the parameters `head/context` of `jtl.pretrained.coop.coop` after training; None for the words.

    Raises:
      ValueError: for a network without two towers, if the numbers of labels and classes differ, or for a context that
        does not fit the texts.

    Example:
      >>> import jtl
      >>> from jtl.pretrained.zero_shot import zero_shot
      >>> clip = jtl.load("hf:openai/clip-vit-base-patch32")  # doctest: +SKIP
      >>> texts = jtl.preprocess.text.tokenizer(clip.tokenizer, length=77)(["an ant", "a bee"])  # doctest: +SKIP
      >>> classifier = zero_shot(clip, texts, ["ant", "bee"])  # doctest: +SKIP

    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv 2103.00020.
    """
    image, text = towers(loaded)
    ids = np.asarray(texts["ids"])
    if ids.ndim not in (2, 3) or (labels is not None and len(labels) != len(ids)):
        count = "no labels" if labels is None else f"{len(labels)} labels"
        raise ValueError(f"ids of shape {ids.shape} and {count}: give [classes, (templates,) tokens], a label for each")
    if context is not None:
        check_context(text, texts, np.shape(context))
        context = jnp.asarray(context)
    flat = {name: jnp.asarray(a).reshape(-1, ids.shape[-1]) for name, a in texts.items()}

    def embeddings(params: Params, x: Any, context: Any) -> jax.Array:
        rows = text_embeddings(text, params, x, context)
        return unit(rows.reshape(len(ids), -1, rows.shape[-1]).mean(1))

    rows = np.asarray(jax.jit(embeddings)(text.variables.params["backbone"], flat, context))
    params = loaded.variables.params["backbone"]
    scale, bias = np.exp(params["log_scale"]), params.get("bias", np.zeros((), rows.dtype))
    out = {"kernel": scale * rows.T, "bias": np.full(len(rows), bias)}
    config = image.config.replace(normalised=True)
    return image._replace(
        backbone=FAMILIES[config.model_type].backbone(config),
        head=heads.linear(len(rows)),
        variables=Variables({**image.variables.params, "head": {"out": out}}, {}),
        labels=None if labels is None else tuple(labels),
        config=config,
    )


def _alone(loaded: Pretrained, config: Config, params: Any) -> Pretrained:
    return loaded._replace(
        backbone=FAMILIES[config.model_type].backbone(config),
        head=heads.identity(),
        variables=Variables({"backbone": params, "head": {}}, {}),
        preprocessing=None,
        labels=None,
        config=config,
        tokenizer=None,
    )
