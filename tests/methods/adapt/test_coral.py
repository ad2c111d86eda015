import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import GOLDEN, SOURCE, TARGET, domains, same_value_and_gradient

from jtl.methods.adapt.coral import coral, coral_loss


def test_the_golden_value():
    np.testing.assert_allclose(coral_loss(SOURCE, TARGET), GOLDEN["coral"], rtol=1e-5)


def test_value_and_gradient_are_those_of_numpys_covariances():
    fs, ft, ms, mt = domains()

    def expected(fs, ft):
        difference = np.cov(fs[ms], rowvar=False) - np.cov(ft[mt], rowvar=False)
        return (difference**2).sum() / (4 * 4**2)

    same_value_and_gradient(lambda a, b: coral_loss(a, b, ms, mt), expected, fs, ft)


def test_one_row_has_no_covariance():
    for one in ((SOURCE, TARGET[:1]), (SOURCE[:1], TARGET)):
        value, slopes = jax.value_and_grad(coral_loss, (0, 1))(*map(jnp.asarray, one))
        assert float(value) == 0
        assert not any(np.asarray(slope).any() for slope in slopes)


def test_bad_input_raises():
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"coral: weight={weight}"):
            coral(weight)
    with pytest.raises(ValueError, match=r"mask of shape \(3,\) does not fit 16 rows"):
        coral_loss(SOURCE, TARGET, np.ones(3, bool))
