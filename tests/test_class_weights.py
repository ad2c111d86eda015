import numpy as np
import pytest

from jtl.losses import class_weights

COUNTS = [50, 5, 12]


def test_inverse_counts_are_sklearns_balanced_weights():
    utils = pytest.importorskip("sklearn.utils")
    y = np.repeat(np.arange(3), COUNTS)
    expected = utils.compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(class_weights(COUNTS), expected, rtol=1e-6)


def test_effective_numbers_are_geometric_sums():
    effective = np.array([sum(0.9**k for k in range(n)) for n in COUNTS])  # 1 + β + ... + β^(n−1)
    found = np.asarray(class_weights(COUNTS, 0.9), np.float64)
    np.testing.assert_allclose(found * effective, (found * effective)[0], rtol=1e-6)
    np.testing.assert_allclose(found @ COUNTS, sum(COUNTS), rtol=1e-6)
    np.testing.assert_allclose(class_weights(COUNTS, 0.0), 1.0)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="at least 1 for each class"):
        class_weights([3, 0])
    with pytest.raises(ValueError, match=r"beta=1\.0"):
        class_weights([3, 1], 1.0)
