"""Layouts: the same numbers come out of torch's layer and of the transformed kernel's; and back without a change."""

import numpy as np
import pytest

from jtl.weights.mapping import transforms as t

RNG = np.random.default_rng(0)
CASES = [
    (t.identity, (3, 4)),
    (t.dense, (3, 4)),
    (t.conv, (5, 3, 2, 4)),
    (t.conv, (5, 3, 7)),
    (t.conv, (5, 3, 2, 4, 6)),
    (t.depthwise, (6, 1, 3, 5)),
    (t.pointwise(2), (5, 3, 1, 1)),
    (t.pointwise(1), (5, 3, 1)),
    (t.flat_dense(3, 2, 4), (5, 24)),
    (t.flat_conv(3, 2, 4), (5, 3, 2, 4)),
    (t.merge_axes(1, 2, (2, 3)), (4, 2, 3)),
    (t.merge_axes(0, 2, (2, 3)), (2, 3, 4)),
]


@pytest.mark.parametrize(("transform", "shape"), CASES, ids=lambda x: getattr(x, "name", str(x)))
def test_there_and_back_is_nothing(transform, shape):
    x = RNG.normal(size=shape)
    np.testing.assert_array_equal(transform.inverse(transform.forward(x)), x)


def test_split_there_and_back():
    x = RNG.normal(size=(12, 5))
    fused = t.split(3, t.dense)
    np.testing.assert_array_equal(fused.inverse(*fused.forward(x)), x)
    assert [part.shape for part in fused.forward(x)] == [(5, 4)] * 3


def test_flat_dense_on_a_channel_last_map_equals_the_original_on_channel_first():
    weight, maps = RNG.normal(size=(5, 24)), RNG.normal(size=(7, 3, 2, 4))
    expected = maps.reshape(7, -1) @ weight.T
    kernel = t.flat_dense(3, 2, 4).forward(weight)
    # float64 sums of 24 terms in another order
    np.testing.assert_allclose(maps.transpose(0, 2, 3, 1).reshape(7, -1) @ kernel, expected, rtol=1e-12)
    np.testing.assert_array_equal(t.flat_conv(3, 2, 4).forward(weight.reshape(5, 3, 2, 4)), kernel)


@pytest.mark.parametrize(
    ("transform", "shape", "message"),
    [
        (t.conv, (3, 4), "at least 3 dimensions"),
        (t.dense, (3,), "at least 2 dimensions"),
        (t.pointwise(), (3, 4, 2, 1), r"\[out, in, 1, 1\]"),
        (t.flat_dense(3, 2, 2), (5, 13), r"expected \[out, 3\*2\*2\]"),
        (t.flat_conv(3, 2, 2), (5, 12), r"expected \[out, 3, 2, 2\]"),
        (t.split(3), (4, 2), "3 equal parts"),
        (t.merge_axes(0, 2, (2, 3)), (3, 2), r"should be \(2, 3\)"),
    ],
    ids=["conv", "dense", "pointwise", "flat_dense", "flat_conv", "split", "merge_axes"],
)
def test_a_shape_that_does_not_fit_is_named(transform, shape, message):
    with pytest.raises(ValueError, match=message):
        transform.forward(np.zeros(shape))
