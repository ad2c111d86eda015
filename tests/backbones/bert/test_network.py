"""Laws of the text encoder; its numbers are compared in test_names.py."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones

SMALL = backbones.Size(8, 1, 2, 12)
DEEPER = SMALL._replace(depth=2)


def jitted(net, **options):
    """Features of variables and an input, compiled: faster than operation by operation."""
    return jax.jit(lambda v, x: net.apply(v, x, **options)[0])


def drawn(net, x):
    """Random variables, made by NumPy: nothing is compiled."""
    rng = np.random.default_rng(0)
    made = jax.eval_shape(net.init, jax.random.key(0), x)
    return jax.tree.map(lambda a: rng.normal(0, 0.5, a.shape).astype(np.float32), made)


def texts(tokens=6):
    ids = np.random.default_rng(0).integers(2, 20, (3, tokens)).astype(np.int32)
    return {"ids": ids, "mask": np.arange(tokens)[None] < np.array([[tokens], [4], [1]])}


# Parameters of the published models with their poolers (DistilBERT has none), as transformers counts them.
@pytest.mark.parametrize(
    ("size", "total", "options"),
    [
        ("tiny", 4_385_920, {}),
        ("base", 109_482_240, {}),
        ("large", 335_141_888, {}),
        ("minilm6", 22_713_216, {}),
        ("minilm12", 33_360_000, {}),
        ("distil", 66_362_880, {"types": 0, "pooler": None}),
        ("base", 124_645_632, {"vocabulary": 50265, "positions": 514, "types": 1, "pad": 1}),
    ],
)
def test_sizes_are_the_published_ones(key, size, total, options):
    made = jax.eval_shape(backbones.bert(size, **options).init, key, texts())
    assert sum(a.size for a in jax.tree.leaves(made.params)) == total


@pytest.mark.parametrize("pad", [None, 1])
def test_padding_changes_nothing(pad):
    """Neither how much of it there is, nor what stands in it."""
    net = backbones.bert(DEEPER, vocabulary=20, positions=16, pad=pad)
    x = texts()
    ids = np.where(x["mask"], x["ids"], 1).astype(np.int32)
    v, run = drawn(net, x), jitted(net, train=False)
    plain = run(v, {**x, "ids": ids})
    more = {"ids": np.pad(ids, ((0, 0), (0, 3)), constant_values=1), "mask": np.pad(x["mask"], ((0, 0), (0, 3)))}
    other = {**x, "ids": np.where(x["mask"], ids, 7).astype(np.int32)}
    for changed in (more, other):
        found = run(v, changed)
        for name in ("pooled", "mean"):
            # Sums of a few numbers near one, in another order.
            np.testing.assert_allclose(found[name], plain[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "make", [lambda: backbones.bert(SMALL, vocabulary=20, positions=16), lambda: backbones.llama(SMALL, vocabulary=20)]
)
def test_a_row_without_tokens_is_finite(make):
    """As a batch has it where it was padded; gradients are finite too."""
    net = make()
    x = {"ids": np.zeros((2, 3), np.int32), "mask": np.zeros((2, 3), bool)}
    v = drawn(net, x)

    def loss(params):
        found = net.apply(v._replace(params=params), x, train=False)[0]
        return found["pooled"].sum(), found["mean"]

    grads, mean = jax.jit(jax.grad(loss, has_aux=True))(v.params)
    np.testing.assert_array_equal(mean, 0)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_dropout_acts_where_it_was_asked_for(key):
    x = texts()
    none = {"dropout": 0.0, "attention_dropout": 0.0}
    still = backbones.bert(SMALL, vocabulary=20, **none)
    v = drawn(still, x)
    calm = jitted(still, train=True, key=key)(v, x)
    np.testing.assert_array_equal(calm["pooled"], jitted(still, train=False)(v, x)["pooled"])
    for options in ({"dropout": 0.5}, {"attention_dropout": 0.5}, {"pooler": backbones.Pooler(after=0.5)}):
        net = backbones.bert(SMALL, vocabulary=20, **{**none, **options})
        found = jitted(net, train=True, key=key)(v, x)
        assert not np.array_equal(found["pooled"], calm["pooled"])
        assert np.array_equal(found["stage1"], calm["stage1"]) == ("pooler" in options)


@pytest.mark.parametrize("wrong", [-1, 20])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "recurrent", "clip", "siglip"])
def test_an_id_of_no_word_is_nan(name, wrong):
    """Neither the last word nor the nearest; and what stands where no token is changes nothing."""
    nets = {
        "bert": lambda: backbones.bert(SMALL, vocabulary=20, positions=16),
        "gpt2": lambda: backbones.gpt2(SMALL, vocabulary=20, positions=16),
        "llama": lambda: backbones.llama(SMALL, vocabulary=20),
        "recurrent": lambda: backbones.recurrent("gru", backbones.RecurrentSize(4, 5), vocabulary=20),
        "clip": lambda: backbones.clip_text(SMALL, vocabulary=20, positions=6, projection=4, end=1),
        "siglip": lambda: backbones.siglip_text(SMALL, vocabulary=20, positions=6, projection=4),
    }
    net, x = nets[name](), texts()
    v, run = drawn(net, x), jitted(net, train=False)
    x["ids"][:, -1] = 1  # the end of a text, by which CLIP finds its token
    ids = x["ids"].copy()
    ids[0, 2] = wrong
    found = run(v, {**x, "ids": ids})["pooled"]
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1:], run(v, x)["pooled"][1:])


def test_types_are_read_where_there_is_a_table():
    x = texts()
    pairs = {**x, "types": (x["ids"] % 2).astype(np.int32)}
    for types in (2, 0):
        net = backbones.bert(SMALL, vocabulary=20, types=types)
        v, run = drawn(net, x), jitted(net, train=False)
        same = [np.asarray(run(v, given)["last"]) for given in (x, pairs)]
        assert np.array_equal(*same) == (types == 0)


def test_computes_in_the_dtype_of_its_parameters(key):
    net = backbones.bert(SMALL, vocabulary=20)
    made = jax.eval_shape(net.init, key, texts())
    half = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), made)
    found = jax.eval_shape(lambda v: net.apply(v, texts(), train=False)[0], half)
    assert {a.dtype.name for a in found.values()} == {"bfloat16"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: unwrap(backbones.bert)("huge"), "size='huge'.*'tiny'.*'minilm12'"),
        (lambda: backbones.bert(backbones.Size(10, 1, 3, 4)), "width=10.*heads=3"),
        (lambda: backbones.bert(SMALL, positions=2, pad=1), "positions=2.*at least.*3 positions"),
        (lambda: backbones.bert(SMALL, attention_dropout=1.0), "attention_dropout=1.0"),
        (lambda: run({"ids": np.ones((1, 3), np.int32)}), r"\['ids'\].*give a dict of 'ids', 'mask'"),
        (lambda: run(np.ones((1, 3), np.int32)), r"of shape \(1, 3\): give a dict"),
        (lambda: run(["a text"]), "list: give a dict"),
        (lambda: run(x(ids=np.ones((1, 3), np.float32))), "ids, mask are float32, bool: give int32, bool"),
        (lambda: run(x(mask=np.ones((1, 3), np.int32))), "ids, mask are int32, int32: give int32, bool"),
        (lambda: run(x(mask=np.ones((1, 4), bool))), r"ids, mask have shapes \(1, 3\), \(1, 4\): give"),
        (lambda: run(x(ids=np.ones((1, 9), np.int32), mask=np.ones((1, 9), bool))), "9 tokens.*at most 6"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def x(**changes):
    return {"ids": np.ones((1, 3), np.int32), "mask": np.ones((1, 3), bool), **changes}


def run(given):
    return backbones.bert(SMALL, vocabulary=20, positions=8, pad=1).init(jax.random.key(0), given)
