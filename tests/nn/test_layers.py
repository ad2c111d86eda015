"""Layers whose numbers no other test of a network would miss."""

import numpy as np

from jtl.nn.layers import drop_path_rates


def test_drop_path_grows_from_nothing_to_the_last_block():
    """In equal steps over all stages; a single block is never dropped."""
    rates = drop_path_rates(0.3, [2, 1, 4])
    assert [len(stage) for stage in rates] == [2, 1, 4]
    np.testing.assert_allclose(np.concatenate(rates), np.linspace(0, 0.3, 7), atol=1e-12)
    assert drop_path_rates(0.3, [1]) == [(0.0,)]
