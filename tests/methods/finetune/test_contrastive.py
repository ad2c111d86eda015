import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.methods.finetune.contrastive import against_prototypes, in_batch_negatives, supervised_contrastive

Z = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
Y = np.array([0, 1, 0, 2, 1, 0, 3, 2, 1])
MASK = np.array([1, 1, 1, 1, 1, 0, 1, 0, 1], bool)


def _unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_the_supervised_loss_is_the_double_sum_by_hand():
    found, there = supervised_contrastive(jnp.where(MASK[:, None], Z, jnp.nan), Y, MASK, temperature=0.3)
    s = np.exp(_unit(Z.astype(np.float64)) @ _unit(Z).T / 0.3)
    for i in range(9):
        others = [a for a in range(9) if a != i and MASK[a]]
        positives = [j for j in others if Y[j] == Y[i]]
        assert bool(there[i]) == (MASK[i] and bool(positives))
        if there[i]:
            expected = -np.mean([np.log(s[i, j] / sum(s[i, a] for a in others)) for j in positives])
            np.testing.assert_allclose(found[i], expected, rtol=1e-5)
        else:
            assert float(found[i]) == 0


def test_the_loss_of_prototypes_is_the_double_sum_by_hand():
    w = np.random.default_rng(1).normal(size=(5, 4))
    found, there = against_prototypes(jnp.where(MASK[:, None], Z, jnp.nan), Y, w, MASK, temperature=2.0)
    s, kept = np.exp(w @ Z.T / 2), np.flatnonzero(MASK)
    for c in range(5):
        keys = [j for j in kept if Y[j] == c]
        assert bool(there[c]) == bool(keys)
        expected = -np.mean([np.log(s[c, j] / s[c, kept].sum()) for j in keys]) if keys else 0.0
        np.testing.assert_allclose(found[c], expected, rtol=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_of_pairs_is_torchs_cross_entropy_of_cosines(symmetric):
    torch = pytest.importorskip("torch")
    a, p = torch.tensor(Z[MASK]), torch.tensor(Z[MASK][::-1].copy())
    scores = 20 * torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(p).T
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(len(a)))
    if symmetric:
        expected = (expected + torch.nn.functional.cross_entropy(scores.T, torch.arange(len(a)))) / 2
    one, two = (np.full((9, 4), np.nan, np.float32) for _ in range(2))
    one[MASK], two[MASK] = a, p
    found = in_batch_negatives(one, two, MASK, symmetric=symmetric)
    np.testing.assert_allclose(np.asarray(found)[MASK].mean(), expected, rtol=1e-5)
    assert not np.asarray(found)[~MASK].any()


def test_gradients_are_finite_at_zero_rows_and_without_rows():
    def loss(z, mask):
        values = supervised_contrastive(z, Y, mask)[0].sum() + against_prototypes(z, Y, jnp.eye(4), mask)[0].sum()
        return values + in_batch_negatives(z, 2 * z + 1, mask).sum()

    slope = jax.jit(jax.grad(loss))
    broken = jnp.where(MASK[:, None], jnp.asarray(Z).at[0].set(0.0), jnp.nan)
    assert np.isfinite(slope(broken, MASK)).all()
    assert not np.asarray(slope(jnp.full((9, 4), jnp.nan), np.zeros(9, bool))).any()


def test_bad_input_raises():
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        supervised_contrastive(Z, Y, temperature=0.0)
    with pytest.raises(ValueError, match="do not fit"):
        against_prototypes(Z, Y, jnp.eye(3))
    with pytest.raises(ValueError, match="equal"):
        in_batch_negatives(Z, Z[:3])
