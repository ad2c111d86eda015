"""A view of the same examples under an augmentation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, parts

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.pseudo_labels import fixmatch
from jtl.methods.adapt.second_view import second_view

ROWS = {"source": batch(n=8), "target": {"x": 4 * batch(n=6, seed=1)["x"], "mask": np.arange(6) < 5}}
KEY = jax.random.key(0)


def louder(key, x):
    return x + 0.5 * jax.random.normal(key, x.shape)


def test_the_term_is_that_of_a_batch_with_the_view():
    net, _, start = parts(KEY, ROWS["source"]["x"])
    inner = adapt(net, alignments=[fixmatch(threshold=0.4)], metrics={})
    objective = second_view(inner, louder)
    variables = objective.init(KEY, ROWS, start)
    seen = []
    given = second_view(
        replace(inner, loss=lambda p, s, batch, key, step: seen.append(batch) or inner.loss(p, s, batch, key, step)),
        louder,
    )
    terms, _ = given.loss(variables.params, {}, ROWS, KEY, 3)
    (whole,) = seen
    assert sorted(whole) == ["source", "strong", "target"]
    noise = np.asarray(whole["strong"]["x"] - whole["target"]["x"])
    assert 0.2 < noise.std() < 0.8  # the same rows, in the same order
    np.testing.assert_array_equal(whole["strong"]["mask"], ROWS["target"]["mask"])
    expected, _ = inner(variables.params, {}, whole, KEY, 3)
    assert float(terms["fixmatch"].value) == float(expected["fixmatch"].value) > 0
    other, _ = objective(variables.params, {}, ROWS, jax.random.key(1), 3)
    assert float(other["fixmatch"].value) != float(terms["fixmatch"].value)


def test_a_view_that_is_there_or_missing_is_named():
    net, _, _ = parts(KEY, ROWS["source"]["x"])
    with pytest.raises(ValueError, match="has a view 'target' already"):
        second_view(adapt(net), louder, name="target").init(KEY, ROWS)
    with pytest.raises(ValueError, match="second_view needs a view 'unlabelled'"):
        second_view(adapt(net), louder, of="unlabelled").init(KEY, {"source": {"x": jnp.zeros((2, 5))}})
