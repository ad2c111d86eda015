"""Laws of the recurrent encoder; its numbers are compared in test_names.py."""

from functools import partial
from inspect import unwrap

import jax
import numpy as np
import pytest

from jtl import backbones

SIZE = backbones.RecurrentSize(3, 4, 2)


def texts():
    ids = np.random.default_rng(0).integers(0, 20, (2, 5)).astype(np.int32)
    return {"ids": ids, "mask": np.array([[True] * 5, [True] * 3 + [False] * 2])}


def drawn(net, x):
    rng = np.random.default_rng(0)
    made = jax.eval_shape(net.init, jax.random.key(0), x)
    return jax.tree.map(lambda a: rng.normal(0, 0.5, a.shape).astype(np.float32), made)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_padding_changes_nothing_wherever_it_stands(cell):
    """Not a bit: where there is no token the state is carried over."""
    net = backbones.recurrent(cell, SIZE, vocabulary=20, bidirectional=True)
    x = texts()
    v, run = drawn(net, x), jax.jit(lambda v, x: net.apply(v, x, train=False)[0])
    plain = run(v, x)
    other = run(v, {**x, "ids": np.where(x["mask"], x["ids"], 7).astype(np.int32)})
    before = run(v, {"ids": np.pad(x["ids"], ((0, 0), (3, 0))), "mask": np.pad(x["mask"], ((0, 0), (3, 0)))})
    for found in (other, before):
        np.testing.assert_array_equal(found["pooled"], plain["pooled"])
        # The means are sums of more zeros.
        np.testing.assert_allclose(found["mean"], plain["mean"], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(plain["last"][1, 3:], 0)
    np.testing.assert_array_equal(before["last"][:, 3:], plain["last"])


def test_directions_mirror_each_other():
    """What reads from the end is what reads from the beginning, on the text turned round."""
    net = backbones.recurrent("gru", SIZE._replace(depth=1), vocabulary=20, bidirectional=True)
    x = texts()
    x["mask"][:] = True
    v = drawn(net, x)
    layer = v.params["layer1"]
    turned = v._replace(params={**v.params, "layer1": {"forward": layer["backward"], "backward": layer["forward"]}})
    run = jax.jit(lambda v, ids: net.apply(v, {**x, "ids": ids}, train=False)[0])
    there, back = run(v, x["ids"]), run(turned, x["ids"][:, ::-1])
    np.testing.assert_array_equal(there["pooled"], np.roll(back["pooled"], 4, 1))
    np.testing.assert_array_equal(there["last"], np.roll(back["last"], 4, 2)[:, ::-1])


def test_dropout_acts_between_layers(key):
    x, v = texts(), None
    for depth in (1, 2):
        net = backbones.recurrent("lstm", SIZE._replace(depth=depth), vocabulary=20, dropout=0.5)
        v = drawn(net, x)
        calm, noisy = (jax.jit(partial(net.apply, train=train))(v, x, key=key)[0] for train in (False, True))
        np.testing.assert_array_equal(calm["stage1"], noisy["stage1"])
        assert np.array_equal(calm["pooled"], noisy["pooled"]) == (depth == 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: unwrap(backbones.recurrent)("rnn", SIZE, vocabulary=9), r"cell='rnn': give one of \['lstm', 'gru'\]"),
        (lambda: backbones.recurrent("gru", SIZE._replace(hidden=0), vocabulary=9), "hidden=0.*at least 1"),
        (lambda: backbones.recurrent("gru", SIZE, vocabulary=9, dropout=1.0), "dropout=1.0"),
    ],
)
def test_bad_input_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
