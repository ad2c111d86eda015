import numpy as np
import pytest

from jtl.selection import ranking

DRAW = np.random.default_rng(0)
Y = np.arange(40) % 4
F = DRAW.normal(size=(40, 6)) + 2 * np.eye(6)[Y]
P = DRAW.dirichlet(np.ones(5), 40)


def test_each_score_is_that_of_its_function_and_transrate_of_features_of_one_scale():
    found = ranking.scores(F, Y, P)
    centred = F - F.mean(0)
    unit = centred / np.sqrt(np.trace(np.cov(F.T, bias=True)))
    np.testing.assert_allclose(
        np.array(found, float),
        [
            ranking.logme(F, Y),
            ranking.h_score(F, Y),
            ranking.transrate(unit, Y),
            ranking.nce(P.argmax(1), Y),
            ranking.leep(P, Y),
        ],
        rtol=1e-9,
    )
    moved = ranking.scores(1000 * F + 7, Y)  # another scale is no other information
    np.testing.assert_allclose([moved.transrate, moved.h_score], [found.transrate, found.h_score], rtol=1e-6)
    assert moved.nce is None
    assert moved.leep is None


def test_features_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="do not vary"):
        ranking.scores(np.ones((40, 3)), Y)
