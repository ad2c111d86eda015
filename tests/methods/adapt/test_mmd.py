import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import GOLDEN, SOURCE, TARGET, domains, same_value_and_gradient

from jtl.methods.adapt.mmd import mmd, mmd_loss

SCALES = (0.5, 1.0, 2.0)


def mean_distance(*f):
    f = np.concatenate(f)
    return np.mean([((a - b) ** 2).sum() for a in f for b in f])


def by_pairs(fs, ft, m, estimator):
    """The definition, one pair at a time."""

    def k(a, b):
        return sum(np.exp(-((a - b) ** 2).sum() / (2 * alpha * m)) for alpha in SCALES)

    if estimator == "linear":
        n = min(len(fs), len(ft)) // 2 * 2
        quads = [(fs[i], fs[i + 1], ft[i], ft[i + 1]) for i in range(0, n, 2)]
        return np.mean([k(s, s2) + k(t, t2) - k(s, t2) - k(s2, t) for s, s2, t, t2 in quads])

    def within(f):
        pairs = [(i, j) for i in range(len(f)) for j in range(len(f)) if estimator == "biased" or i != j]
        return np.mean([k(f[i], f[j]) for i, j in pairs])

    return within(fs) + within(ft) - 2 * np.mean([k(a, b) for a in fs for b in ft])


def test_the_golden_value():
    found = mmd_loss(SOURCE, TARGET[:16], scales=SCALES)
    np.testing.assert_allclose(found, GOLDEN["mkmmd_unbiased_tllib_alphas_.5_1_2"], atol=3e-6)


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_value_and_gradient_are_those_of_all_pairs(estimator):
    fs, ft, ms, mt = domains()
    m = mean_distance(fs[ms], ft[mt])  # a constant for the gradient
    same_value_and_gradient(
        lambda a, b: mmd_loss(a, b, ms, mt, estimator=estimator),
        lambda a, b: by_pairs(a[ms], b[mt], m, estimator),
        fs, ft,
    )  # fmt: skip


def test_the_gradient_needs_one_matrix_product_more():
    """Of distances within one array autodiff alone makes two, of which one is the other's transpose."""
    f = jnp.ones((32, 256))

    def flops(of):
        return jax.jit(of).lower(f, f).compile().cost_analysis()["flops"]

    assert flops(jax.value_and_grad(mmd_loss, (0, 1))) < 2.3 * flops(mmd_loss)


def test_a_common_offset_costs_no_precision():
    moved = [jnp.asarray(f + 1000.0, jnp.float32) for f in (SOURCE, TARGET)]
    np.testing.assert_allclose(mmd_loss(*moved), mmd_loss(SOURCE, TARGET), rtol=2e-3)


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_equal_rows_have_no_bandwidth_and_no_discrepancy(estimator):
    assert float(mmd_loss(np.ones((4, 3)), np.ones((6, 3)), estimator=estimator)) == pytest.approx(0, abs=1e-6)


def test_the_biased_estimate_of_equal_samples_is_zero():
    assert float(mmd_loss(SOURCE, SOURCE[::-1], estimator="biased")) == pytest.approx(0, abs=1e-6)


def test_one_row_makes_no_pair():
    assert float(mmd_loss(SOURCE, TARGET[:1])) == float(mmd_loss(SOURCE, TARGET[:1], estimator="linear")) == 0
    assert float(mmd_loss(SOURCE, TARGET[:1], estimator="biased")) > 0


def test_bad_input_raises():
    with pytest.raises(ValueError, match="estimator='best': choose one of"):
        mmd(estimator="best")
    for scales in ((), (1.0, 0.0), (float("nan"),)):
        with pytest.raises(ValueError, match=r"scales=\(.*give positive numbers"):
            mmd(scales=scales)
