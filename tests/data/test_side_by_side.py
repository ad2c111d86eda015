"""Several data sets at each step."""

import numpy as np
import pytest

from jtl import data


def test_each_set_goes_through_its_own_epochs():
    short = data.arrays(np.arange(4), batch_size=2, shuffle=False)
    long = data.arrays(np.arange(9), batch_size=3, shuffle=False)
    both = data.several(short=short, long=long)
    assert len(both) == 3
    found = [(batch["short"]["x"].tolist(), batch["long"]["x"].tolist()) for batch in both]
    assert found == [([0, 1], [0, 1, 2]), ([2, 3], [3, 4, 5]), ([0, 1], [6, 7, 8])]


def test_sets_of_one_seed_do_not_pair_the_same_rows():
    one = data.arrays(np.arange(50), batch_size=50, seed=3)
    batch = data.several(a=one, b=one)[0]
    assert sorted(batch["a"]["x"]) == sorted(batch["b"]["x"]) == list(range(50))
    assert (batch["a"]["x"] != batch["b"]["x"]).mean() > 0.8


def test_no_set_is_refused():
    with pytest.raises(ValueError, match="at least one data set"):
        data.several()
