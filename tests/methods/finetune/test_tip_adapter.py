"""Tip-Adapter against its formula in float64, and Tip-Adapter-F against torch's steps of the same layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError
from made import blobs

import jtl
from jtl.finetuning import tip_adapter, tip_cache, tip_search
from jtl.methods.finetune.on_features import checked_labels

ALPHA, BETA, ROWS = 1.3, 4.5, 9
DRAW = np.random.default_rng(3)
HEAD = {"out": {"kernel": DRAW.normal(size=(5, 3)).astype(np.float32), "bias": np.float32([0.1, -0.4, 0.2])}}
WEIGHTS = np.array([1, 0.5, 0, 2, 1, 1, 3, 0, 1])
(X, Y), (HELD, HELD_Y) = blobs(ROWS), blobs(23, seed=1)


def logits(params, x, alpha=ALPHA, beta=BETA, examples=range(ROWS), weights=WEIGHTS):
    """The paper's formula for keys at length 1, example by example."""
    z = x.astype(np.float64) @ params["out"]["kernel"] + params["out"].get("bias", 0)
    for row, f in zip(z, x.astype(np.float64), strict=True):
        for i in examples:
            cos = f @ X[i].astype(np.float64) / np.linalg.norm(f) / np.linalg.norm(X[i].astype(np.float64))
            row[Y[i]] += alpha * weights[i] * np.exp(-beta * (1 - cos))
    return z


def net_of(alpha=ALPHA, beta=BETA):
    return jtl.network(backbone=jtl.backbones.identity(), head=tip_adapter(alpha, beta))


def run(params, x=HELD, alpha=ALPHA, beta=BETA):
    return jtl.predictor(net_of(alpha, beta))(jtl.Variables({"backbone": {}, "head": params}, {}), x)


@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_the_formulas(bias):
    head = HEAD if bias else {"out": {"kernel": HEAD["out"]["kernel"]}}
    wanted = logits(head, HELD)
    np.testing.assert_allclose(run(tip_cache(head, X, Y, weights=WEIGHTS)), wanted, rtol=0, atol=1e-5)
    assert np.abs(wanted - logits(head, HELD, beta=BETA + 0.1)).max() > 1e-2  # the comparison sees β


def test_the_order_of_the_cache_and_examples_of_weight_0_change_nothing():
    whole, order, there = run(tip_cache(HEAD, X, Y, weights=WEIGHTS)), DRAW.permutation(ROWS), WEIGHTS > 0
    shuffled = run(tip_cache(HEAD, X[order], Y[order], weights=WEIGHTS[order]))
    without = run(tip_cache(HEAD, X[there], Y[there], weights=WEIGHTS[there]))
    np.testing.assert_allclose(shuffled, whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(without, whole, rtol=0, atol=1e-5)
    linear = HELD @ HEAD["out"]["kernel"] + HEAD["out"]["bias"][None]
    np.testing.assert_allclose(run(tip_cache(HEAD, 7 * X, Y), alpha=0.0), linear, rtol=0, atol=1e-5)


def batch(x, y):
    """Rows at length 1 with weights, of which the last does not count and is NaN."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    x, mask = np.concatenate([x, np.full((1, 5), np.nan, np.float32)]), np.arange(len(x) + 1) < len(x)
    return {"x": x, "y": np.append(y, 0), "mask": mask, "weights": np.linspace(0.5, 2, len(x)).astype(np.float32)}


def test_three_steps_on_the_keys_are_torchs():
    """Tip-Adapter-F of the authors: a linear layer whose weights start at the keys, and AdamW; all else stays.

    The step here is of two microbatches of weighted rows, one of which is NaN and masked.
    """
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    start, rows = tip_cache(HEAD, X, Y), batch(HELD, HELD_Y)
    step = jtl.make_step(
        jtl.finetune(net_of()),
        optax.adamw(0.05, eps=1e-4, weight_decay=1e-2),
        trainable=jtl.select("head/keys"),
        microbatch=2,
    )
    state = step.init(jtl.Variables({"backbone": {}, "head": jax.tree.map(jnp.array, start)}, {}), jax.random.key(0))
    for _ in range(3):
        state, _ = step(state, rows)
    layer = torch.nn.Linear(5, ROWS, bias=False)
    layer.weight.data = torch.tensor(np.array(start["keys"]))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05, eps=1e-4, weight_decay=1e-2)
    f, s = torch.tensor(rows["x"][:-1]), torch.tensor(rows["weights"][:-1])
    w, b = (torch.tensor(HEAD["out"][name]) for name in ("kernel", "bias"))
    hot = torch.nn.functional.one_hot(torch.tensor(Y), 3).float()
    for _ in range(3):
        z = f @ w + b + ALPHA * (-BETA * (1 - layer(f))).exp() @ hot
        each = torch.nn.functional.cross_entropy(z, torch.tensor(HELD_Y), reduction="none")
        optimizer.zero_grad()
        ((each * s).sum() / s.sum()).backward()
        optimizer.step()
    found = jtl.variables(state).params["head"]
    np.testing.assert_allclose(found["keys"], layer.weight.detach().numpy(), rtol=0, atol=2e-5)
    assert np.abs(found["keys"] - start["keys"]).max() > 0.05
    np.testing.assert_array_equal(found["values"], start["values"])
    np.testing.assert_array_equal(found["out"]["kernel"], HEAD["out"]["kernel"])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_search_is_the_grid_by_hand(weighted):
    alphas, betas = (2.0, 0.0, 0.5), (6.0, 1.0)
    s = np.linspace(0.1, 3, len(HELD)) if weighted else np.ones(len(HELD))
    params = tip_cache(HEAD, X, Y, weights=WEIGHTS)
    options = {"weights": s} if weighted else {}
    found = tip_search(params, HELD, HELD_Y, alphas, betas, chunk=10, **options)
    right, losses = np.zeros((3, 2)), np.zeros((3, 2))
    for i, alpha in enumerate(alphas):
        for j, beta in enumerate(betas):
            z = logits(HEAD, HELD, alpha, beta)
            log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
            right[i, j] = np.average(z.argmax(1) == HELD_Y, weights=s)
            losses[i, j] = np.average(-log_p[np.arange(len(z)), HELD_Y], weights=s)
    np.testing.assert_allclose(found.accuracies, right, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    assert right.min() < right.max()
    tied = np.where(right > right.max() - 1e-6, losses, np.inf)
    at = np.unravel_index(tied.argmin(), tied.shape)
    assert (found.alpha, found.beta) == (alphas[at[0]], betas[at[1]])


def test_of_equal_pairs_the_smallest_and_of_equal_accuracies_the_lowest_loss():
    params = tip_cache(HEAD, X, Y)
    same = tip_search({**params, "values": 0 * params["values"]}, HELD, HELD_Y, (3.0, 1.0, 2.0), (5.0, 4.0))
    assert (same.alpha, same.beta) == (1.0, 4.0)
    alone = tip_search(params, X[:1], Y[:1], (5.0, 6.0), (9.0,))  # it finds itself
    assert alone.accuracies.tolist() == [[1.0], [1.0]]
    assert alone.losses[1, 0] < alone.losses[0, 0]
    assert alone.alpha == 6.0


def test_the_search_takes_no_pair_that_overflows():
    """Keys of trained length let exp(−β (1 − u Kᵀ)) overflow, and infinity times the 0 of a label is NaN."""
    params = tip_cache(HEAD, X, Y)
    long = {**params, "keys": 3000 * params["keys"]}
    found = tip_search(long, HELD, 0 * HELD_Y, (1.0,), (9.0, 0.0))  # argmax of NaN is class 0
    assert np.isnan(found.losses).tolist() == [[True, False]]
    assert found.accuracies[0, 0] > found.accuracies[0, 1]
    assert found.beta == 0.0


def test_features_of_zeros_have_finite_gradients():
    params = tip_cache(HEAD, X, Y)
    slopes = jax.grad(lambda p, x: (run(p, x) ** 2).sum(), (0, 1))(params, jnp.zeros((2, 5)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: tip_adapter(-1.0, 1.0), "alpha=-1.0"),
        (lambda p: tip_adapter(1.0, float("nan")), "beta=nan"),
        (lambda p: run(HEAD), r"has no \['keys', 'values'\]"),
        (lambda p: run(p, HELD[:, :4]), "width 4"),
        (lambda p: tip_cache(HEAD, X[:, :4], Y), "width 4"),
        (lambda p: tip_cache(HEAD, X, Y + 1), r"lie in \[1, 3\]"),
        (lambda p: tip_cache(HEAD, X, Y[:3]), "9 rows of features and 3"),
        (lambda p: tip_cache(HEAD, X, Y, weights=-WEIGHTS), "not negative"),
        (lambda p: tip_cache(p, X, Y), r"a head of \['keys', 'out', 'values'\]"),
        (lambda p: tip_cache(jtl.Variables(HEAD, {}), X, Y), "Variables"),
        (lambda p: checked_labels(Y + 0.5, 3), "float32: give integers"),
        (lambda p: checked_labels(Y[:, None], 3), r"labels of shape \(9, 1\)"),
        (lambda p: tip_search(HEAD, HELD, HELD_Y, (1.0,), (1.0,)), r"has no \['keys', 'values'\]"),
        (lambda p: tip_search({**p, "keys": p["keys"] * np.nan}, HELD, HELD_Y, (1.0,), (1.0,)), "not finite, or too"),
        (lambda p: tip_search(p, HELD, HELD_Y, (), (1.0,)), "at least one of each"),
        (lambda p: tip_search(p, HELD, HELD_Y, (1.0,), (1.0, -2.0)), r"betas\[1\]=-2.0"),
        (lambda p: tip_search(p, HELD, HELD_Y + 1, (1.0,), (1.0,)), r"lie in \[1, 3\]"),
        (lambda p: tip_search(p, HELD * np.nan, HELD_Y, (1.0,), (1.0,)), "not finite in 23"),
        (lambda p: tip_search(p, HELD, HELD_Y, (1.0,), (1.0,), chunk=0), "chunk=0"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises((ValueError, TypeCheckError), match=message):
        call(tip_cache(HEAD, X, Y))
