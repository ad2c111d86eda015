"""CoOp: an image classifier whose class texts begin with learned vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import rng
from jtl.backbones.registry import FAMILIES
from jtl.checked import whole
from jtl.heads import reading
from jtl.model import Model, Variables
from jtl.pretrained.context import check_context, first_word, text_embeddings
from jtl.pretrained.load import Pretrained
from jtl.pretrained.zero_shot import towers
from jtl.typing import Key, Output, Stats

STD = 0.02
"""The standard deviation of contexts that are drawn, as in the authors' code."""


def coop(
    loaded: Pretrained,
    texts: Mapping[str, Any],
    count: int,
    labels: Sequence[str] | None = None,
    *,
    class_specific: bool = False,
    key: Key | None = None,
) -> Pretrained:
    """Makes a classifier with learned contexts, `z_k = s cos(f(x), g([v_1, ..., v_M, e(name of k)])) + b`.

    f and g are the image tower and the text tower, e(·) the embeddings of words. The vectors v take the place of the
    first M words of each text, after CLIP's start token, and the rest of the text is the name of the class. To train
    them alone, use `make_step(..., trainable=jtl.select("head/context"))`. The text tower runs on all texts in every
    step, and in every microbatch. Once trained, `zero_shot(loaded, texts, labels, context=...)` makes an ordinary
    linear head of the context, which needs no text tower, can be saved, and may have other classes. It takes both
    towers from `loaded`: if more than the context was trained, put that into `loaded.variables` first.

    Args:
      loaded: the result of `jtl.load` for CLIP or SigLIP.
      texts: {"ids", "mask"}, each [classes, tokens]; each text begins with M tokens to replace, such as those of "a
        photo of a dog" for M = 4.
      count: M, at least 1; the paper uses 16, and 4 for data of other kinds than the training data.
      labels: the names of the classes.
      class_specific: whether each class has vectors of its own, which takes more examples; otherwise all share them.
      key: key to draw the vectors from N(0, 0.02²), as in the paper; None starts at the embeddings of the replaced
        words, so that the classifier starts as the one of `zero_shot` on the same texts.

    Returns:
      A network whose backbone is the normalised image tower, and whose head has the parameters `context` [M, width] or
      [classes, M, width], `text/...`, `log_scale`, and `bias` for SigLIP. `jtl.save` cannot write that head.

    Raises:
      ValueError: for a network without two towers; numbers of labels and classes that differ; a text without a name
        after M words; or, for a context that all classes share, first words that differ between classes, or two classes
        whose texts have the same tokens, such as long names that are cut to one length.

    Example:
      >>> import jtl, optax
      >>> from jtl.pretrained.coop import coop
      >>> clip = jtl.load("hf:openai/clip-vit-base-patch32")  # doctest: +SKIP
      >>> encode = jtl.preprocess.text.tokenizer(clip.tokenizer, length=77)  # doctest: +SKIP
      >>> learned = coop(clip, encode(["a photo of a bee", "a photo of a wasp"]), 4, ["bee", "wasp"])  # doctest: +SKIP
      >>> step = jtl.make_step(
      ...     jtl.finetune(learned.network), optax.sgd(2e-3), trainable=jtl.select("head/context")
      ... )  # doctest: +SKIP

    Zhou et al., Learning to Prompt for Vision-Language Models, 2022, arXiv 2109.01134.
    """
    image, text = towers(loaded)
    x = {name: np.asarray(a) for name, a in texts.items()}
    ids, both = x["ids"], loaded.variables.params["backbone"]
    if ids.ndim != 2 or (labels is not None and len(labels) != len(ids)):
        told = "no labels" if labels is None else f"{len(labels)} labels"
        raise ValueError(f"ids of shape {ids.shape} and {told}: give [classes, tokens], and a label for each")
    whole(1, count=count)
    table, first = both["text"]["token"], first_word(text)
    shape = (*((len(ids),) if class_specific else ()), count, table.shape[1])
    check_context(text, x, shape)
    words = ids[:, first : first + count]
    if not class_specific and (words != words[:1]).any():
        raise ValueError(
            f"the first {count} tokens differ between classes, as {words[0].tolist()} and"
            f" {words[(words != words[:1]).any(1)][0].tolist()}: begin all texts with the same {count} words, one token"
            " each, or give class_specific=True"
        )
    if not class_specific:
        _differ(x, labels)
    start = np.asarray(table)[words if class_specific else words[0]] if key is None else _drawn(key, shape)
    context = np.asarray(start, np.promote_types(start.dtype, np.float32))
    head = {"context": context, "text": both["text"], **{n: both[n] for n in ("log_scale", "bias") if n in both}}
    config = image.config.replace(normalised=True)
    return image._replace(
        backbone=FAMILIES[config.model_type].backbone(config),
        head=_head(text, x, shape, tuple(sorted(set(head) - {"context", "text"}))),
        variables=Variables({**image.variables.params, "head": head}, {}),
        labels=None if labels is None else tuple(labels),
        config=config,
    )


def _differ(x: Mapping[str, Any], labels: Sequence[str] | None) -> None:
    """Refuses two classes whose texts have the same tokens."""
    kept = np.asarray(x.get("mask", np.ones(x["ids"].shape))) > 0
    seen: dict[tuple[int, ...], int] = {}
    for k, (row, own) in enumerate(zip(x["ids"], kept, strict=True)):
        other = seen.setdefault(tuple(row[own].tolist()), k)
        if other != k:
            a, b = (other, k) if labels is None else (labels[other], labels[k])
            raise ValueError(
                f"the texts of the classes {a!r} and {b!r} have the same {int(own.sum())} tokens, so nothing tells them"
                " apart: their names are equal, or are cut to the same beginning by the tokenizer's length"
            )


def _head(text: Pretrained, x: Any, shape: tuple[int, ...], numbers: tuple[str, ...]) -> Model:
    def init(key: Key, features: Any) -> Variables:
        del features
        context = _drawn(rng.stream(key, "context"), shape)
        tower = text.backbone.init(rng.stream(key, "text"), x).params
        return Variables({"context": context, "text": tower, **{name: jnp.zeros(()) for name in numbers}}, {})

    def apply(variables: Variables, features: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        params = variables.params
        rows = text_embeddings(text, params["text"], x, params["context"], train=train, key=key)
        z = jnp.exp(params["log_scale"]) * features @ rows.T
        return z + params["bias"] if "bias" in params else z, variables.stats

    return reading(Model(init, apply), "pooled")


def _drawn(key: Key, shape: tuple[int, ...]) -> jax.Array:
    return STD * jax.random.normal(key, shape)
