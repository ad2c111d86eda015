import numpy as np
import pytest

from jtl.preprocess.label_maps import resize_labels


@pytest.mark.parametrize("size", [(3, 4), (7, 11), (14, 22), (5, 30), (1, 1)])
def test_it_is_torchs_exact_nearest_neighbour(size):
    torch = pytest.importorskip("torch")
    labels = np.random.default_rng(0).integers(0, 256, (2, 7, 11)).astype(np.uint8)
    theirs = torch.nn.functional.interpolate(torch.tensor(labels)[:, None], size=size, mode="nearest-exact")[:, 0]
    found = resize_labels(labels, size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, theirs)


def test_what_are_no_labels_or_no_size_is_refused():
    with pytest.raises(ValueError, match="dtype float64: give integers"):
        resize_labels(np.zeros((2, 2)), (1, 1))
    with pytest.raises(ValueError, match=r"size=\(0, 2\)"):
        resize_labels(np.zeros((2, 2), int), (0, 2))
