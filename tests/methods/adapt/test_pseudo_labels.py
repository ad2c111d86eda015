import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import same_value_and_gradient

from jtl.methods.adapt.pseudo_labels import fixmatch, fixmatch_loss, pseudo_labels
from jtl.methods.views import View

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
WEAK, STRONG = 2 * DRAW.normal(size=(9, 3)), DRAW.normal(size=(9, 3))
SURE = 0.7


def by_row(weak, strong):
    found = np.zeros(len(weak))
    for i, (a, b) in enumerate(zip(weak, strong, strict=True)):
        p, q = np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum()
        if p.max() >= SURE:
            found[i] = -np.log(q[p.argmax()])
    return found


def test_rows_and_gradient_are_those_of_confident_rows_one_by_one():
    wanted = by_row(WEAK, STRONG)
    assert 0 < (wanted > 0).sum() < 9
    np.testing.assert_allclose(fixmatch_loss(WEAK, STRONG, threshold=SURE), wanted, rtol=1e-5)
    same_value_and_gradient(
        lambda strong: fixmatch_loss(jnp.asarray(WEAK), strong, threshold=SURE).mean(),
        lambda strong: by_row(WEAK, strong).mean(),
        STRONG,
    )


def test_the_weak_view_has_no_gradient():
    gradient = jax.grad(lambda z: fixmatch_loss(z, jnp.asarray(STRONG), threshold=SURE).sum())(jnp.asarray(WEAK))
    np.testing.assert_array_equal(gradient, np.zeros_like(WEAK))


def views(**masks):
    made = {"target": WEAK, "strong": STRONG}
    return {n: View({}, jnp.asarray(z), None, None, masks.get(n), {}) for n, z in made.items()}


def test_a_row_counts_where_both_views_keep_it():
    masks = {"target": np.arange(9) != 1, "strong": np.arange(9) != 4}
    terms, aux = fixmatch(2.0, threshold=SURE)({}, {}, views(**masks), KEY, 0)
    kept = masks["target"] & masks["strong"]
    wanted = by_row(WEAK, STRONG)[kept]
    np.testing.assert_allclose(terms["fixmatch"].value, 2 * wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["fixmatch_confident"].value, (wanted > 0).mean(), rtol=1e-6)


def test_pseudo_labels_are_those_of_the_view_itself():
    terms, _ = pseudo_labels(threshold=SURE)({}, {}, views(), KEY, 0)
    np.testing.assert_allclose(terms["pseudo"].value, by_row(WEAK, WEAK).mean(), rtol=1e-5)


def test_bad_input_raises():
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"threshold={threshold}"):
            fixmatch(threshold=threshold)
    two = views()
    two["strong"] = two["strong"]._replace(output=jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="'target' has 9 rows and 'strong' 4"):
        fixmatch()({}, {}, two, KEY, 0)
    del two["strong"]
    with pytest.raises(ValueError, match="fixmatch needs a view 'strong'"):
        fixmatch()({}, {}, two, KEY, 0)
