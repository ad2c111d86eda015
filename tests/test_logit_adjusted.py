import numpy as np
import pytest

from jtl.losses import cross_entropy, logit_adjusted

Z, Y, COUNTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), np.arange(6) % 3, [90, 9, 1]


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_the_loss_weighs_each_classs_exponential_by_its_share(tau):
    share = (np.array(COUNTS) / 100) ** tau
    expected = [-np.log(share[y] * np.exp(z[y]) / (share * np.exp(z)).sum()) for z, y in zip(Z, Y, strict=True)]
    np.testing.assert_allclose(logit_adjusted(Z, Y, counts=COUNTS, tau=tau), expected, rtol=1e-5)


def test_no_strength_or_equal_classes_give_cross_entropy():
    for counts, tau in ((COUNTS, 0.0), ([5, 5, 5], 1.0)):
        np.testing.assert_allclose(logit_adjusted(Z, Y, counts=counts, tau=tau), cross_entropy(Z, Y), rtol=1e-5)


def test_bad_input_raises():
    with pytest.raises(ValueError, match=r"tau=-1\.0"):
        logit_adjusted(Z, Y, counts=COUNTS, tau=-1.0)
    for counts in ([1, 2], [1, 0, 2]):
        with pytest.raises(ValueError, match="one positive number for each of 3 classes"):
            logit_adjusted(Z, Y, counts=counts)
