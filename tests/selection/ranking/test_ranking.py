import math

import numpy as np
import pytest

from jtl.selection.ranking import h_score, leep, logme, nce, transrate
from jtl.selection.ranking.h_score import shrinkage

# By the authors' own code on the inputs below.
LEEP, NCE, LOGME = -0.9540826925844214, -0.6166651094023192, -0.6641201866729327


def feats(n, d, phase=0.0):
    i, j = np.arange(n)[:, None], np.arange(d)[None]
    return np.sin(1.3 * i + 0.7 * j + phase) + 0.5 * np.cos(0.37 * i * j + 0.1 * j + phase)


Y = np.arange(30) % 3
F = feats(30, 6) + 0.8 * np.eye(6)[Y]
Z = feats(30, 4, 0.5) + np.eye(4)[Y]
P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
WIDE = np.random.default_rng(0).normal(size=(12, 40)) + np.eye(40)[np.arange(12) % 3]


def test_leep_nce_and_logme_have_their_golden_values():
    np.testing.assert_allclose(leep(P, Y), LEEP, rtol=1e-12)
    np.testing.assert_allclose(nce(P.argmax(1), Y), NCE, rtol=1e-12)
    # The authors stop at a relative change of 1e-3 and add 1e-5 to divisors, so their evidence is a little lower.
    assert LOGME <= logme(F, Y) < LOGME + 1e-4


def dense_evidence(f, y, alpha, beta):
    covariance = np.eye(len(f)) / beta + f @ f.T / alpha
    quadratic = y @ np.linalg.solve(covariance, y)
    return -0.5 * (len(f) * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + quadratic) / len(f)


@pytest.mark.parametrize(("f", "y"), [(F, Y), (WIDE, np.arange(12) % 3)], ids=["tall", "wide"])
def test_logme_is_the_maximum_of_the_dense_gaussian(f, y):
    minimize = pytest.importorskip("scipy.optimize").minimize
    found = []
    for c in range(3):
        target = (y == c).astype(float)

        def lost(logs, target=target):
            return -dense_evidence(f, target, *np.exp(logs))

        starts = [np.array([a, b]) for a in (0.0, 4.0) for b in (0.0, 4.0)]
        limits = [(-10.0, 20.0)] * 2  # the best noise may be none at all
        found.append(-min(minimize(lost, start, method="Nelder-Mead", bounds=limits).fun for start in starts))
    np.testing.assert_allclose(logme(f, y), np.mean(found), rtol=1e-5)


def test_logme_of_a_regression_takes_each_output_alone():
    y = feats(30, 2, 1.7)
    np.testing.assert_allclose(logme(F, y), (logme(F, y[:, 0]) + logme(F, y[:, 1])) / 2, rtol=1e-12)


def test_nce_is_the_entropy_counted_pair_by_pair():
    z = np.arange(30) // 7
    expected = 0.0
    for i in range(30):
        expected += math.log(np.mean(Y[z == z[i]] == Y[i])) / 30
    np.testing.assert_allclose(nce(z, Y), expected, rtol=1e-12)


def test_leep_of_hard_predictions_is_nce():
    z = np.arange(30) // 7
    np.testing.assert_allclose(leep(np.eye(9)[z], Y), nce(z, Y), rtol=1e-12)


def test_the_plain_h_score_is_the_trace_of_two_covariances():
    means = np.stack([F[c == Y].mean(0) for c in Y])
    expected = np.trace(np.linalg.pinv(np.cov(F, rowvar=False)) @ np.cov(means, rowvar=False))
    np.testing.assert_allclose(h_score(F, Y, shrink=False), expected, rtol=1e-10)


@pytest.mark.parametrize("f", [F, WIDE], ids=["tall", "wide"])
def test_the_shrunk_h_score_uses_scikit_learns_covariance(f):
    covariance = pytest.importorskip("sklearn.covariance").LedoitWolf().fit(f)
    y = np.arange(len(f)) % 3
    np.testing.assert_allclose(shrinkage(f - f.mean(0)), covariance.shrinkage_, rtol=1e-10)
    means = np.stack([f[y == c].mean(0) for c in y])
    between = np.cov(means, rowvar=False, ddof=0)
    expected = np.trace(np.linalg.inv(covariance.covariance_) @ between) * (1 - covariance.shrinkage_)
    np.testing.assert_allclose(h_score(f, y), expected, rtol=1e-10)


def test_transrate_is_the_difference_of_log_determinants():
    f = F - F.mean(0)

    def rate(x):
        return 0.5 * np.linalg.slogdet(np.eye(6) + x.T @ x / (len(x) * 0.01))[1]

    expected = rate(f) - np.mean([rate(f[c == Y]) for c in range(3)])
    np.testing.assert_allclose(transrate(F, Y, epsilon=0.01), expected, rtol=1e-10)


@pytest.mark.parametrize("score", [logme, h_score, transrate])
def test_scores_ignore_the_order_of_rows_and_the_numbers_of_classes(score):
    order = np.random.default_rng(1).permutation(30)
    np.testing.assert_allclose(score(F[order], 7 + 5 * Y[order]), score(F, Y), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: leep(Z, Y), "give softmax"),
        (lambda: leep(P, Y[:4]), "one integer for each of 30"),
        (lambda: nce(Y, Y[:4]), "one integer for each of 30"),
        (lambda: logme(F, np.zeros(30, int)), "at least 2"),
        (lambda: logme(F, np.zeros(30)), "0 everywhere in output 0"),
        (lambda: logme(np.zeros((30, 2)), Y), "all 0"),
        (lambda: logme(np.full((30, 2), np.nan), Y), "60 values that are not finite"),
        (lambda: h_score(np.ones((30, 2)), Y), "do not vary"),
        (lambda: transrate(F, Y, epsilon=0.0), r"epsilon=0\.0"),
        (lambda: h_score(F, Y.astype(float)), "float64"),
    ],
)
def test_bad_input_raises(call, says):
    with pytest.raises(ValueError, match=says):
        call()
