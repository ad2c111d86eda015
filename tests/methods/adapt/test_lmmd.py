import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import domains, same_value_and_gradient

from jtl.methods.adapt.lmmd import lmmd, lmmd_loss

SCALES = (0.5, 2.0)


def by_class(fs, ft, y, p, m):
    """The definition: weighted pairs of each class that both domains have."""

    def k(a, b):
        return sum(np.exp(-((a - b) ** 2).sum() / (2 * alpha * m)) for alpha in SCALES)

    found = []
    for c in sorted(set(y) & set(p.argmax(1))):
        a, b = (y == c) / (y == c).sum(), p[:, c] / p[:, c].sum()
        found.append(
            sum(a[i] * a[j] * k(fs[i], fs[j]) for i in range(len(fs)) for j in range(len(fs)))
            + sum(b[i] * b[j] * k(ft[i], ft[j]) for i in range(len(ft)) for j in range(len(ft)))
            - 2 * sum(a[i] * b[j] * k(fs[i], ft[j]) for i in range(len(fs)) for j in range(len(ft)))
        )
    return np.mean(found)


def test_value_and_gradient_are_those_of_all_pairs_of_each_class():
    fs, ft, ms, mt = domains()
    y = np.array([0, 2, 1, 1, 0, 2, 4])  # 1 and 4 are predicted nowhere, 3 has no row
    logits = np.random.default_rng(3).normal(size=(9, 5)) + 4 * np.eye(5)[[0, 2, 1, 3, 3, 0, 4, 2, 2]]
    logits[:, 4] -= 9
    p = np.exp(logits[mt])
    p /= p.sum(1, keepdims=True)
    assert set(p.argmax(1)) & set(y[ms]) == {0, 2}
    f = np.concatenate([fs[ms], ft[mt]])
    m = np.mean([((a - b) ** 2).sum() for a in f for b in f])  # a constant for the gradient
    same_value_and_gradient(
        lambda a, b, z: lmmd_loss(a, b, y, z, ms, mt, scales=SCALES),
        lambda a, b, z: by_class(a[ms], b[mt], y[ms], p, m),
        fs, ft, logits,  # which are constants too
    )  # fmt: skip


def test_rows_without_a_label_do_not_count():
    fs, ft, _, mt = domains()
    fs, logits = np.nan_to_num(fs), np.nan_to_num(ft)
    y = np.array([0, 1, -1, 2, -1, 1, 0])
    found = lmmd_loss(fs, ft, y, logits, None, mt)
    np.testing.assert_allclose(found, lmmd_loss(fs[y >= 0], ft, y[y >= 0], logits, None, mt), rtol=1e-5)


def test_no_class_in_common_gives_zero():
    assert float(lmmd_loss(jnp.ones((2, 2)), jnp.zeros((2, 2)), jnp.array([0, 0]), jnp.array([[0.0, 9.0]] * 2))) == 0


def test_a_label_beyond_the_classes_is_nan_unless_it_is_masked():
    f, z, y = jnp.ones((2, 2)), jnp.eye(2), jnp.array([0, 2])
    assert np.isnan(lmmd_loss(f, f, y, z))
    assert np.isfinite(lmmd_loss(f, f, y, z, jnp.array([True, False])))


def test_bad_input_raises():
    with pytest.raises(ValueError, match=r"scales=\(-1\.0,\)"):
        lmmd(scales=(-1.0,))
