"""Small text networks with random parameters, and texts for them, as tests of prompts and prefixes take them."""

import jax
import numpy as np

from jtl import backbones
from jtl.backbones.llama.network import LlamaParts
from jtl.params import flatten, unflatten

SIZE = backbones.Size(16, 2, 4, 20)
WORDS = (5, 3, 8)
NETS = {
    "bert": backbones.bert(SIZE, vocabulary=30, positions=12, dropout=0.0, attention_dropout=0.0),
    "roberta": backbones.bert(SIZE, vocabulary=30, positions=14, types=0, pad=1),
    "gpt2": backbones.gpt2(SIZE, vocabulary=30, positions=12),
    "llama": backbones.llama(SIZE, vocabulary=30, parts=LlamaParts(groups=2)),
}


def texts(kind, first=()):
    """Ids of three texts, padded on the right, after the same first words."""
    draw, lengths = np.random.default_rng(1), np.array([[6], [3], [1]])
    mask = np.arange(6)[None] < lengths
    ids = np.where(mask, draw.integers(2, 30, mask.shape), 1).astype(np.int32)
    first = np.repeat(np.array([first], np.int32), 3, 0)
    x = {"ids": np.concatenate([first, ids], 1), "mask": np.concatenate([np.ones(first.shape, bool), mask], 1)}
    if kind == "bert":
        x["types"] = np.concatenate([0 * first, draw.integers(0, 2, mask.shape).astype(np.int32)], 1)
    return x


def random_variables(net, x):
    shapes, draw = jax.eval_shape(net.init, jax.random.key(0), x), np.random.default_rng(2)
    return jax.tree.map(lambda s: (0.3 * draw.normal(size=s.shape)).astype(s.dtype), shapes)


def put(variables, values):
    """The variables with these leaves, by path, in place of those there are."""
    flat = flatten(variables.params)
    assert values.keys() <= flat.keys()
    return variables._replace(params=unflatten(flat | values))


def run(net, variables, x):
    return jax.jit(lambda v: net.apply(v, x, train=False)[0])(variables)
