import numpy as np
import pytest

from jtl.preprocess.next_tokens import next_tokens


def test_labels_are_the_tokens_that_follow_within_the_text():
    ids = np.array([[1, 2, 3, 0, 0], [0, 0, 4, 5, 6], [7, 0, 0, 0, 0], [1, 2, 3, 4, 5]])
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [1] * 5], bool)
    none = -100
    assert next_tokens(ids, mask).tolist() == [
        [2, 3, none, none, none],
        [none, none, 5, 6, none],
        [none] * 5,
        [2, 3, 4, 5, none],
    ]
    # Of a prompt of 2 tokens the first that is learned is the third.
    assert next_tokens(ids, mask, prompt=[2, 2, 0, 0]).tolist() == [
        [none, 3, none, none, none],
        [none, none, none, 6, none],
        [none] * 5,
        [2, 3, 4, 5, none],
    ]


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"ids of shape \(1, 3\) and mask of shape \(1, 2\)"):
        next_tokens(np.zeros((1, 3), int), np.ones((1, 2), bool))
