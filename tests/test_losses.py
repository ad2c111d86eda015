"""Losses against torch's, per example, in float64: the formulas must agree to rounding."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import losses
from jtl.metrics import accumulate

CLASSES, BATCH = 5, 7


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(BATCH, CLASSES))
    soft = rng.dirichlet(np.ones(CLASSES), BATCH)
    return logits, rng.integers(0, CLASSES, BATCH), soft, rng.uniform(0.2, 2, CLASSES)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_cross_entropy_is_torchs(problem, torch, smoothing, weighted, kind):
    logits, hard, soft, weights = problem
    y, w = (hard if kind == "hard" else soft), (weights if weighted else None)
    with jax.enable_x64(True):
        ours = losses.cross_entropy(logits, y, smoothing=smoothing, class_weights=w)
        gradient = jax.grad(lambda z: losses.cross_entropy(z, y, smoothing=smoothing, class_weights=w).sum())(
            jnp.asarray(logits)
        )
    z = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        z,
        torch.tensor(y),
        weight=None if w is None else torch.tensor(w),
        label_smoothing=smoothing,
        reduction="none",
    )
    theirs.sum().backward()
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-12)
    np.testing.assert_allclose(gradient, z.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_class_ruled_out_by_minus_infinity_costs_nothing(problem, torch, weighted):
    logits, hard, _, weights = problem
    logits, y, w = logits.copy(), hard % (CLASSES - 1), weights if weighted else None
    logits[:, -1] = -np.inf
    with jax.enable_x64(True):
        ours, gradient = jax.value_and_grad(lambda z: losses.cross_entropy(z, y, class_weights=w).sum())(
            jnp.asarray(logits)
        )
    z = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        z, torch.tensor(y), weight=None if w is None else torch.tensor(w), reduction="sum"
    )
    theirs.backward()
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-12)
    np.testing.assert_allclose(gradient, z.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal])
@pytest.mark.parametrize(("dtype", "classes"), [(np.uint8, 256), (np.uint8, 300), (np.int8, 200)])
def test_labels_of_eight_bits_are_those_of_thirty_two(loss, dtype, classes):
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(6, classes)).astype(np.float32), rng.integers(0, 120, 6)
    np.testing.assert_array_equal(loss(logits, y.astype(dtype)), loss(logits, y.astype(np.int32)))


def test_binary_cross_entropy_is_torchs(problem, torch):
    logits, _, soft, weights = problem
    hard = (soft > 0.2).astype(int)
    functional = torch.nn.functional.binary_cross_entropy_with_logits
    for y, w in ((hard, None), (soft, None), (hard, weights)):
        theirs = functional(
            torch.tensor(logits),
            torch.tensor(y, dtype=torch.float64),
            pos_weight=None if w is None else torch.tensor(w),
            reduction="none",
        ).mean(1)
        with jax.enable_x64(True):
            ours = losses.binary_cross_entropy(logits, y, positive_weights=w)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_label_that_is_no_probability_is_nan():
    """-1 for a label that is not known was learned from; mixtures of labels miss 1 by rounding."""
    found = losses.binary_cross_entropy(np.zeros((1, 6)), np.array([[-1, 2, np.nan, 0, 1, 1 + 1e-6]]), elementwise=True)
    assert np.isnan(found).tolist() == [[True, True, True, False, False, False]]


def test_dice_is_its_formula_over_the_classes_of_each_example():
    draw = np.random.default_rng(3)
    logits, y = draw.normal(size=(3, 4, 5, 3)).astype(np.float32), draw.integers(0, 3, (3, 4, 5))
    y[0][y[0] == 2] = 255
    y[1], logits[0][y[0] == 255] = 255, np.nan
    wanted = np.zeros(3)
    for i in (0, 2):
        kept, own = y[i] != 255, np.exp(logits[i].astype(np.float64))
        p = (own / own.sum(-1, keepdims=True))[kept]
        pairs = [(p[:, c], y[i][kept] == c) for c in np.unique(y[i][kept])]
        wanted[i] = np.mean([1 - 2 * (p * g).sum() / ((p**2).sum() + g.sum()) for p, g in pairs])
    value, slope = jax.value_and_grad(lambda z: losses.dice(z, y, ignore=255).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(losses.dice(logits, y, ignore=255), wanted, rtol=1e-5)
    np.testing.assert_allclose(value, wanted.sum(), rtol=1e-5)
    assert np.isfinite(slope).all()
    assert np.isnan(losses.dice(logits, y)).tolist() == [True, True, False]
    certain = 1e3 * np.eye(3, dtype=np.float32)[np.minimum(y, 2)]
    value, slope = jax.value_and_grad(lambda z: losses.dice(z, y, ignore=255).sum())(jnp.asarray(certain))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert np.isfinite(slope).all(), "of a class that is absent and has probability 0 everywhere"


@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 3), (BATCH, 2, 3)])
def test_regression_losses_are_torchs(torch, shape):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=shape) * 2, rng.normal(size=shape)
    functional, axes = torch.nn.functional, tuple(range(1, len(shape)))
    with jax.enable_x64(True):
        ours = losses.mse(a, b), losses.huber(a, b, delta=0.7)
        each = losses.mse(a, b, elementwise=True), losses.huber(a, b, delta=0.7, elementwise=True)
    theirs = (
        functional.mse_loss(torch.tensor(a), torch.tensor(b), reduction="none"),
        functional.huber_loss(torch.tensor(a), torch.tensor(b), delta=0.7, reduction="none"),
    )
    for o, e, t in zip(ours, each, theirs, strict=True):
        np.testing.assert_allclose(o, t.numpy().mean(axes), rtol=1e-12)
        np.testing.assert_allclose(e, t.numpy(), rtol=1e-12)


def test_cross_entropy_closed_forms():
    # Equal logits: log C whatever the label. A certain and wrong answer costs the logits' distance.
    np.testing.assert_allclose(losses.cross_entropy(np.zeros((1, 8)), np.array([3])), [np.log(8)], rtol=1e-6)
    np.testing.assert_allclose(losses.cross_entropy(np.array([[100.0, 0.0]]), np.array([1])), [100.0], rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_its_formula(problem, gamma):
    logits, y, _, weights = problem
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p = p[np.arange(BATCH), y]
    with jax.enable_x64(True):
        ours = losses.focal(logits, y, gamma=gamma, class_weights=weights)
        plain = losses.focal(logits, y, gamma=gamma)
    np.testing.assert_allclose(ours, -weights[y] * (1 - p) ** gamma * np.log(p), rtol=1e-9)
    np.testing.assert_allclose(plain, -((1 - p) ** gamma) * np.log(p), rtol=1e-9)


def test_focal_without_focus_is_cross_entropy_with_its_gradient(problem):
    logits, y, _, _ = problem
    with jax.enable_x64(True):
        z = jnp.asarray(logits)
        value = jax.value_and_grad(lambda z: losses.focal(z, y, gamma=0.0).sum())(z)
        wanted = jax.value_and_grad(lambda z: losses.cross_entropy(z, y).sum())(z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), value, wanted)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (losses.cross_entropy, {}),
        (losses.cross_entropy, {"smoothing": 0.1}),
        (losses.cross_entropy, {"class_weights": np.ones(CLASSES, np.float32)}),
        (losses.focal, {}),
    ],
)
def test_a_label_that_is_no_class_gives_nan_and_a_mask_leaves_it_out(problem, loss, options):
    logits, y, _, _ = problem
    z, bad, kept = jnp.asarray(logits, jnp.float32), y.copy(), np.arange(BATCH) > 2
    bad[:3] = -1, -100, CLASSES
    np.testing.assert_array_equal(np.isnan(loss(z, bad, **options)), ~kept)

    def masked(z, y):
        return accumulate.mean(loss(z, y, **options), kept).value

    ours, wanted = (jax.value_and_grad(masked)(z, labels) for labels in (bad, y))
    jax.tree.map(np.testing.assert_array_equal, ours, wanted)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_where_the_model_is_certain(gamma):
    logits, y = jnp.array([[200.0, 0.0], [-200.0, 0.0]]), np.array([0, 0])
    gradient = jax.grad(lambda z: losses.focal(z, y, gamma=gamma).sum())(logits)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[0], 0, atol=1e-6)


def test_half_precision_is_widened_before_anything_else(problem):
    logits, y, soft, _ = problem
    low = jnp.asarray(logits, jnp.bfloat16)
    wide = low.astype(jnp.float32)
    for loss, target in (
        (losses.cross_entropy, y),
        (losses.focal, y),
        (losses.binary_cross_entropy, soft),
        (losses.mse, soft),
        (losses.huber, soft),
    ):
        out = loss(low, target)
        assert out.dtype == jnp.float32
        assert out.shape == (BATCH,)
        np.testing.assert_array_equal(out, loss(wide, target))


def test_weighted_torch_mean_is_a_reduction_by_the_weights(problem, torch):
    """torch divides a weighted mean by `Σ w_y`: here that is a `Mean` whose count says so."""
    logits, y, _, w = problem
    with jax.enable_x64(True):
        total = accumulate.mean(losses.cross_entropy(logits, y, class_weights=w)).total
        ours = accumulate.Mean(total, w[y].sum()).value
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(y), weight=torch.tensor(w))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda z, y: losses.cross_entropy(z, y, smoothing=1.5), "smoothing=1.5"),
        (lambda z, y: losses.focal(z, y, gamma=-1.0), "gamma=-1.0"),
        (lambda z, y: losses.focal(z, y, gamma=float("nan")), "gamma=nan"),
        (lambda z, y: losses.logit_adjusted(z, y, counts=np.arange(1, 6), tau=float("nan")), "tau=nan"),
        (lambda z, y: losses.logit_adjusted(z, y, counts=[1, 2, 3, 4, np.inf]), "counts=.*inf"),
        (lambda z, y: losses.huber(z[:, 0], y, delta=0.0), "delta=0.0"),
        (lambda z, y: unwrap(losses.cross_entropy)(z, y, class_weights=np.ones(2)), r"class_weights of shape \(2,\)"),
        (lambda z, y: unwrap(losses.focal)(z, y, class_weights=np.ones((5, 1))), r"class_weights of shape \(5, 1\)"),
        (lambda z, y: unwrap(losses.binary_cross_entropy)(z, z, positive_weights=np.ones(1)), "positive_weights of"),
    ],
)
def test_numbers_out_of_range_are_named(problem, call, words):
    with pytest.raises(ValueError, match=words):
        call(problem[0], problem[1])
