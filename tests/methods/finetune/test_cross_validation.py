import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from jtl.methods.finetune import cross_validated, logistic_regression
from jtl.methods.finetune.cross_validation import EQUAL

PENALTIES = (0.003, 0.03, 0.3)
FOLDS = np.array([2, 0, 1] * 16)


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 48)
    return (draw.normal(size=(3, 6))[y] + draw.normal(3, 1, size=(48, 6))).astype(np.float32), y


@pytest.mark.parametrize("weighted", [False, True])
def test_the_choice_and_the_held_out_logits_are_scikit_learns(data, weighted):
    of, metrics = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.metrics")
    x, y = data
    weights = np.array([0.5, 1.0, 3.0])[y] if weighted else np.ones(48)
    found = cross_validated(x, y, FOLDS, PENALTIES, classes=3, weights=weights if weighted else None)
    shares, losses = {}, []
    for penalty in PENALTIES:
        shares[penalty] = np.zeros((48, 3))
        for fold in range(3):
            seen = fold != FOLDS
            theirs = of.LogisticRegression(C=1 / (penalty * weights[seen].sum()), tol=1e-8, max_iter=2000)
            theirs.fit(x[seen].astype(np.float64), y[seen], weights[seen])
            shares[penalty][~seen] = theirs.predict_proba(x[~seen])
        losses.append(metrics.log_loss(y, shares[penalty], sample_weight=weights))
    np.testing.assert_allclose(found.losses, losses, rtol=1e-3)
    best = PENALTIES[int(np.argmin(losses))]
    assert found.fitted.penalty == best
    e = np.exp(found.logits - found.logits.max(1, keepdims=True))
    np.testing.assert_allclose(e / e.sum(1, keepdims=True), shares[best], atol=2e-3)


def _exact(x, y, penalty, classes):
    """The minimum by scipy, to a gradient of 1e-10: W above b."""
    x, hot = np.concatenate([x.astype(np.float64), np.ones((len(x), 1))], 1), np.eye(classes)[y]

    def objective(flat):
        w = flat.reshape(-1, classes)
        z = x @ w
        log = z - special.logsumexp(z, 1, keepdims=True)
        slope = x.T @ (np.exp(log) - hot) / len(x)
        slope[:-1] += penalty * w[:-1]
        return -(log * hot).sum() / len(x) + penalty / 2 * (w[:-1] ** 2).sum(), slope.ravel()

    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 0, "gtol": 1e-10}
    found = optimize.minimize(objective, np.zeros(x.shape[1] * classes), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(-1, classes)


def test_the_held_out_losses_are_as_exact_as_the_choice_needs():
    """They were off by up to 2e-4, and penalties whose losses differ by 1e-5 count as equal."""
    draw, penalties = np.random.default_rng(1), (1e-4, 1e-3, 1e-2)
    y = draw.integers(0, 5, 200)
    x = (0.5 * draw.normal(size=(5, 20))[y] + draw.normal(size=(200, 20))).astype(np.float32)
    folds, wanted = np.arange(200) % 3, []
    for penalty in penalties:
        each = np.zeros(200)
        for fold in range(3):
            seen = folds != fold
            w = _exact(x[seen], y[seen], penalty, 5)
            z = x[~seen] @ w[:-1] + w[-1]
            each[~seen] = special.logsumexp(z, 1) - z[np.arange(len(z)), y[~seen]]
        wanted.append(each.mean())
    found = cross_validated(x, y, folds, penalties, classes=5)
    np.testing.assert_allclose(found.losses, wanted, rtol=0, atol=EQUAL / 2)


def test_the_classifier_is_fitted_on_all_examples(data):
    x, y = data
    found = cross_validated(x, y, FOLDS, PENALTIES, classes=3)
    whole = logistic_regression(x, y, found.fitted.penalty * 48, classes=3)
    np.testing.assert_allclose(found.fitted(x), whole(x), atol=5e-3)


def test_the_labels_of_a_fold_do_not_change_its_own_logits(data):
    x, y = data
    inside = FOLDS == 1
    before = cross_validated(x, y, FOLDS, [0.03], classes=3)
    after = cross_validated(x, np.where(inside, (y + 1) % 3, y), FOLDS, [0.03], classes=3)
    np.testing.assert_allclose(after.logits[inside], before.logits[inside], atol=1e-4)
    assert np.abs(after.logits[~inside] - before.logits[~inside]).max() > 0.1


def test_a_weight_of_0_is_an_example_that_is_not_there(data):
    x, y = data
    weights = (np.arange(48) % 5 > 0).astype(float)
    there = weights > 0
    found = cross_validated(x, y, FOLDS, PENALTIES, classes=3, weights=weights)
    alone = cross_validated(x[there], y[there], FOLDS[there], PENALTIES, classes=3)
    np.testing.assert_allclose(found.losses, alone.losses, rtol=1e-3)
    np.testing.assert_allclose(found.logits[there], alone.logits, atol=5e-3)


def test_of_equal_penalties_the_largest_and_the_order_does_not_matter(data):
    x, y = data
    found = cross_validated(np.zeros_like(x), y, FOLDS, PENALTIES, classes=3)  # no penalty changes anything
    assert found.fitted.penalty == max(PENALTIES)
    one, other = (cross_validated(x, y, FOLDS, p, classes=3) for p in (PENALTIES, PENALTIES[::-1]))
    np.testing.assert_array_equal(one.losses, other.losses[::-1])


def test_large_features_converge_and_keep_their_type(data):
    x, y = data
    found = cross_validated(jnp.asarray(100 * x + 1000), y, FOLDS, [300.0], classes=3)
    np.testing.assert_allclose(found.logits, cross_validated(x, y, FOLDS, [0.03], classes=3).logits, atol=5e-3)
    assert found.fitted.kernel.dtype == np.float32


def test_standardised_features_are_penalised_alike_whatever_their_scale(data):
    x, y = data
    size = x.std(0) + 0.1 * x.std(0).mean()
    size *= np.sqrt((((x - x.mean(0)) / size) ** 2).sum(1).mean())
    found = cross_validated(x, y, FOLDS, [1e-3], classes=3, standardise=True)
    plain = cross_validated((x - x.mean(0)) / size, y, FOLDS, [1e-3], classes=3)
    np.testing.assert_allclose(found.logits, plain.logits, atol=5e-3)
    np.testing.assert_allclose(found.fitted(x), plain.fitted((x - x.mean(0)) / size), atol=5e-3)
    for factor in (0.01, 100.0):  # of all features
        again = cross_validated(factor * x, y, FOLDS, [1e-3], classes=3, standardise=True)
        np.testing.assert_allclose(again.logits, found.logits, atol=5e-3)
    constant = np.concatenate([x, np.full((48, 1), 7.0, np.float32)], 1)
    assert np.isfinite(cross_validated(constant, y, FOLDS, [1e-3], classes=3, standardise=True).fitted.kernel).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": np.zeros(48, int)}, r"folds hold \[0\] alone"),
        ({"penalties": ()}, "give at least one"),
        ({"penalties": (0.0,)}, "each is positive"),
        ({"classes": 2}, r"labels lie in \[0, 2\], with classes=2"),
        ({"weights": -np.ones(48)}, "not negative"),
        ({"weights": (FOLDS == 1) * 1.0}, "nothing is left"),
        ({"folds": np.arange(3)}, "3 folds"),
    ],
)
def test_mistakes_are_named(data, change, message):
    x, y = data
    options = {"folds": FOLDS, "penalties": PENALTIES, "classes": 3} | change
    with pytest.raises(ValueError, match=message):
        cross_validated(x, y, options.pop("folds"), options.pop("penalties"), **options)
    with pytest.raises(ValueError, match="not finite in 1 of 48"):
        cross_validated(np.where(np.arange(48)[:, None] == 3, np.nan, x), y, FOLDS, PENALTIES, classes=3)
