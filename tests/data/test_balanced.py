import numpy as np
import pytest

from jtl.data import arrays, balanced

Y = np.array([2] * 5 + [0] * 80 + [1] * 15)
X = np.arange(100, dtype=np.float32)[:, None]


def rows(data, steps):
    batches = [data[step] for step in range(steps)]
    return np.concatenate([b["x"][:, 0] for b in batches]).astype(int), np.concatenate([b["y"] for b in batches])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_come_at_their_probability_and_examples_uniformly(power):
    x, y = rows(balanced(arrays(X, Y, batch_size=50), Y, power=power), 80)
    np.testing.assert_array_equal(y, Y[x])  # an example keeps its label
    wanted = np.array([80, 15, 5]) ** power
    found = np.bincount(y, minlength=3) / 4000
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=0.035)  # more than 4 standard deviations
    seen = np.bincount(x, minlength=100)[:5]
    assert seen.min() > 0
    assert seen.max() - seen.min() < 5 * np.sqrt(seen.mean()) + 1


def test_a_batch_is_a_function_of_the_step_and_the_processes_share_it():
    one = balanced(arrays(X, Y, batch_size=20, seed=3), Y)
    again = balanced(arrays(X, Y, batch_size=20, seed=3), Y)
    np.testing.assert_array_equal(one[7]["x"], again[7]["x"])
    assert not np.array_equal(one[7]["x"], one[12]["x"])
    parts = [balanced(arrays(X, Y, batch_size=20, seed=3, process_index=i, process_count=2), Y) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([p[7]["x"] for p in parts]), one[7]["x"])


def test_bad_input_raises():
    data = arrays(X, Y, batch_size=10)
    with pytest.raises(ValueError, match="one integer for each of 100 examples"):
        balanced(data, Y[:5])
    with pytest.raises(ValueError, match=r"power=2\.0"):
        balanced(data, Y, power=2.0)
    with pytest.raises(ValueError, match="shuffle=False"):
        balanced(arrays(X, Y, batch_size=10, shuffle=False), Y)
