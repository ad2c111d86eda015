"""Fisher information against closed forms and torch's gradients row by row; the term of EWC against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, parts, top

from jtl.methods.adapt.adapt import adapt
from jtl.methods.finetune.ewc import ewc
from jtl.methods.finetune.finetune import finetune
from jtl.methods.finetune.fisher import fisher_diagonal
from jtl.methods.finetune.l2_sp import l2_sp
from jtl.model import Model, Variables, cast_floating
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train.step import make_step

KEY = jax.random.key(0)
ROWS = batch(n=14)
NET, _, START = parts(KEY, ROWS["x"], widths=(6,))
PLAIN = Model(lambda key, x: Variables({}, {}), lambda v, x, *, train, key=None: ({"pooled": x}, v.stats))
LINEAR = network(backbone=PLAIN, head=top(3))
FISHER = fisher_diagonal(NET, START, [ROWS], trainable=select("backbone/.*", "head/out/kernel"))


def probabilities(variables, x):
    z = np.asarray(LINEAR.apply(variables, x, train=False)[0].output, np.float64)
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


@pytest.fixture(scope="module")
def linear():
    start = LINEAR.init(KEY, ROWS["x"])
    return jax.tree.map(lambda w: 2 * w, start)


def test_the_true_fisher_of_a_linear_classifier_is_its_closed_form(linear):
    """`∂ log p_y / ∂W_jc = x_j (1[y = c] − p_c)`, whose square has the expectation `x_j² p_c (1 − p_c)`."""
    x, p = ROWS["x"].astype(np.float64), probabilities(linear, ROWS["x"])
    halves = [{"x": ROWS["x"][:10]}, {"x": ROWS["x"][10:]}]
    fisher, start = fisher_diagonal(LINEAR, linear, halves, trainable=select("head/.*"))
    np.testing.assert_allclose(fisher["head"]["out"]["kernel"], (x**2).T @ (p * (1 - p)) / len(x), rtol=1e-4)
    np.testing.assert_allclose(fisher["head"]["out"]["bias"], (p * (1 - p)).mean(0), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, start["head"], linear.params["head"])


def test_the_empirical_fisher_takes_the_labels_and_rows_count_by_mask_and_weight(linear):
    mask, weights = np.arange(14) % 3 > 0, np.linspace(0.5, 2, 14).astype(np.float32)
    x = np.where(mask[:, None], ROWS["x"], np.nan)
    given = {**ROWS, "x": x, "mask": mask, "weights": weights, "name": "not an array"}
    fisher, _ = fisher_diagonal(LINEAR, linear, [given, given], labels="given")
    x, p, w = ROWS["x"].astype(np.float64)[mask], probabilities(linear, ROWS["x"])[mask], weights[mask]
    slopes = x[:, :, None] * (np.eye(3)[ROWS["y"][mask]] - p)[:, None]
    expected = (w[:, None, None] * slopes**2).sum(0) / w.sum()
    np.testing.assert_allclose(fisher["head"]["out"]["kernel"], expected, rtol=1e-4)
    true, _ = fisher_diagonal(LINEAR, linear, [given])
    expected = (w[:, None] * x**2).T @ (p * (1 - p)) / w.sum()
    np.testing.assert_allclose(true["head"]["out"]["kernel"], expected, rtol=1e-4)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_beyond_the_classes_is_nan_unless_it_is_masked(linear, label):
    rows = {"x": ROWS["x"], "y": np.where(np.arange(len(ROWS["y"])) == 1, label, ROWS["y"])}
    for mask, known in ((None, False), (np.arange(len(ROWS["y"])) != 1, True)):
        fisher, _ = fisher_diagonal(LINEAR, linear, [{**rows, "mask": mask}], labels="given")
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fisher)) == known


def test_drawn_labels_estimate_the_true_fisher(linear):
    many = {"x": np.tile(ROWS["x"], (200, 1))}
    drawn, _ = fisher_diagonal(LINEAR, linear, [many], labels="drawn", key=KEY)
    true, _ = fisher_diagonal(LINEAR, linear, [ROWS])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.15), drawn, true)
    one, other = (fisher_diagonal(LINEAR, linear, [ROWS], labels="drawn", key=jax.random.key(i))[0] for i in (1, 2))
    assert not np.allclose(one["head"]["out"]["kernel"], other["head"]["out"]["kernel"], rtol=1e-3)


@pytest.mark.parametrize("labels", ["every", "given"])
def test_it_is_the_mean_of_torchs_squared_gradients_of_single_rows(labels):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    w = {p: torch.tensor(np.asarray(v), requires_grad=True) for p, v in flatten(START.params).items()}
    total = {p: torch.zeros_like(v) for p, v in w.items()}
    for x, y in zip(torch.tensor(ROWS["x"]), ROWS["y"], strict=True):
        hidden = torch.relu(x @ w["backbone/layer0/kernel"] + w["backbone/layer0/bias"])
        log_p = torch.log_softmax(hidden @ w["head/out/kernel"] + w["head/out/bias"], -1)
        for c in range(3) if labels == "every" else [int(y)]:
            share = float(log_p[c].detach().exp()) if labels == "every" else 1.0
            slopes = torch.autograd.grad(log_p[c], list(w.values()), retain_graph=True)
            total = {p: t + share * s**2 / len(ROWS["x"]) for (p, t), s in zip(total.items(), slopes, strict=True)}
    found = flatten(fisher_diagonal(NET, START, [ROWS], labels=labels)[0])
    assert found.keys() == total.keys()
    for path, f in found.items():
        np.testing.assert_allclose(f, total[path].detach().numpy(), rtol=1e-4, atol=1e-7)


def terms_of(objective, params, stats, rows=ROWS):
    return jax.jit(lambda params, stats: objective(params, stats, rows, KEY, 0)[0])(params, stats)


def moved(by=0.1):
    return jax.tree.map(lambda w: w + by, START.params)


def test_the_term_and_its_gradient_are_the_formulas_and_what_is_not_in_f_is_free():
    objective = finetune(NET, lambda z, y: 0.0 * z.sum(-1), [ewc(FISHER, 3.0)], metrics={})
    start = objective.init(KEY, ROWS, START)
    loss = terms_of(objective, moved(), start.stats)
    by_hand = 1.5 * sum(float((np.asarray(f) * 0.01).sum()) for f in flatten(FISHER[0]).values())
    assert by_hand > 1e-3
    np.testing.assert_allclose(loss["ewc"].value, by_hand, rtol=1e-4)
    step = make_step(objective, optax.sgd(1.0), microbatch=2)
    after, _ = jax.jit(step)(step.init(Variables(moved(), start.stats), KEY), ROWS)
    for path, w in flatten(after.params).items():  # θ − λ F (θ − θ*), whatever the microbatches
        expected = flatten(moved())[path] - 0.3 * flatten(FISHER[0]).get(path, 0.0)
        np.testing.assert_allclose(w, expected, rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after.stats["ewc"], start.stats["ewc"])


def test_with_a_fisher_of_ones_it_is_l2_sp_and_two_tasks_are_two_terms():
    ones = jax.tree.map(jnp.ones_like, START.params["backbone"])
    other = {"backbone": ones}, {"backbone": START.params["backbone"]}
    objective = adapt(NET, alignments=[ewc(other, 0.3), l2_sp(0.3), ewc(FISHER, 1.0, name="older")])
    rows = {"source": ROWS, "target": {"x": ROWS["x"]}}
    loss = terms_of(objective, moved(), objective.init(KEY, rows, START).stats, rows)
    np.testing.assert_allclose(loss["ewc"].value, loss["l2_sp"].value, rtol=1e-6)
    assert float(loss["older"].value) > 0


def test_it_is_zero_at_the_start_in_bfloat16_and_sees_moves_that_rounding_hides():
    objective = finetune(NET, lambda z, y: 0.0 * z.sum(-1), [ewc(FISHER, 2.0)], metrics={})
    start = objective.init(KEY, ROWS, START)
    loss = terms_of(objective, cast_floating(start.params, jnp.bfloat16), start.stats)
    assert float(loss["ewc"].value) == 0
    step = make_step(objective, optax.sgd(1.0), dtype=jnp.bfloat16)
    _, metrics = jax.jit(step)(step.init(Variables(moved(2.0**-12), start.stats), KEY), ROWS)
    total = sum(float(f.sum()) for f in jax.tree.leaves(FISHER[0]))
    np.testing.assert_allclose(metrics["ewc"], 2.0**-24 * total, rtol=1e-2)


def test_bad_input_raises():
    fisher, start = FISHER
    with pytest.raises(ValueError, match="'head/out/kernel' holds a number that is negative"):
        ewc(({"head": {"out": {"kernel": -jnp.ones((6, 3))}}}, start), 1.0)
    with pytest.raises(ValueError, match=r"F has 'head/out/kernel' of shape \(2,\), and θ\* of \(6, 3\)"):
        ewc(({"head": {"out": {"kernel": jnp.ones(2)}}}, start), 1.0)
    with pytest.raises(ValueError, match="F is empty"):
        ewc(({}, {}), 1.0)
    wider = network(backbone=dense(6), head=top(5))
    with pytest.raises(ValueError, match=r"'head/out/kernel' of shape \(6, 3\), and the network of \(6, 5\)"):
        finetune(wider, terms=[ewc((fisher, start), 1.0)]).init(KEY, ROWS)
    with pytest.raises((ValueError, TypeError), match="all"):  # a checked annotation raises first
        fisher_diagonal(NET, START, [ROWS], labels="all")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="needs a key"):
        fisher_diagonal(NET, START, [ROWS], labels="drawn")
    with pytest.raises(ValueError, match="at least one row that counts"):
        fisher_diagonal(NET, START, [{**ROWS, "mask": np.zeros(14, bool)}])
    with pytest.raises(ValueError, match="no labels"):
        fisher_diagonal(NET, START, [{"x": ROWS["x"]}], labels="given")
    with pytest.raises(ValueError, match="'head/w' is of int8, which has no gradient: `trainable` must"):
        fisher_diagonal(NET, Variables({"head": {"w": np.zeros(2, np.int8)}}, {}), [ROWS])
    two = network(backbone=dense(6), old=top(3), new=top(2))
    with pytest.raises(ValueError, match=r"needs logits \[batch, classes\]; this network's output is {'new'"):
        fisher_diagonal(two, two.init(KEY, ROWS["x"]), [ROWS])
