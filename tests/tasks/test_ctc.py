"""CTC against torch, and its best path by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tasks
from jtl.preprocess.characters import Alphabet
from jtl.reads import Masked

FRAMES, LABELS = np.array([9, 6, 7, 4]), np.array([[1, 2, 2, 3], [3, 0, 0, 0], [1, 1, 2, 0], [0, 0, 0, 0]])


def logits(dtype=np.float32):
    return np.random.default_rng(0).normal(size=(4, 9, 4)).astype(dtype)


def mask():
    return np.arange(9)[None] < FRAMES[:, None]


def test_values_and_gradients_are_torchs():
    """Sounds and labels of other lengths, repeated characters, and a label of none."""
    torch = pytest.importorskip("torch")
    values = tasks.ctc_loss(Masked(jnp.asarray(logits()), jnp.asarray(mask())), LABELS)
    grad = jax.grad(lambda z: tasks.ctc_loss(Masked(z, jnp.asarray(mask())), LABELS).sum())(jnp.asarray(logits()))
    z = torch.tensor(logits(), requires_grad=True)
    loss = torch.nn.CTCLoss(blank=0, reduction="none")
    theirs = loss(
        z.log_softmax(-1).transpose(0, 1),
        torch.tensor(LABELS),
        torch.tensor(FRAMES),
        torch.tensor((LABELS > 0).sum(1)),
    )
    theirs.sum().backward()
    np.testing.assert_allclose(values, theirs.detach(), rtol=1e-5)
    assert z.grad is not None
    np.testing.assert_allclose(grad, z.grad, atol=1e-5)


def test_the_loss_is_minus_the_log_of_the_sum_over_all_paths():
    """Three frames, label "a": the paths a--, -a-, --a, aa-, -aa, aaa."""
    p = np.array([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3], [0.2, 0.7, 0.1]])
    blank, a = p[:, 0], p[:, 1]
    paths = a[0] * blank[1] * blank[2] + blank[0] * a[1] * blank[2] + blank[0] * blank[1] * a[2]
    paths += a[0] * a[1] * blank[2] + blank[0] * a[1] * a[2] + a[0] * a[1] * a[2]
    found = tasks.ctc_loss(Masked(jnp.log(p)[None], jnp.ones((1, 3), bool)), np.array([[1]]))
    np.testing.assert_allclose(found, [-np.log(paths)], rtol=1e-5)


def test_padding_changes_nothing():
    z, there = jnp.asarray(logits()), jnp.asarray(mask())
    wide = Masked(jnp.pad(z, ((0, 0), (0, 5), (0, 0))), jnp.pad(there, ((0, 0), (0, 5))))
    again = tasks.ctc_loss(wide, np.pad(LABELS, ((0, 0), (0, 3))))
    np.testing.assert_allclose(again, tasks.ctc_loss(Masked(z, there), LABELS), rtol=1e-6)


def test_a_label_that_is_none_is_nan():
    z = Masked(jnp.zeros((4, 3, 3)), jnp.ones((4, 3), bool))
    found = tasks.ctc_loss(z, np.array([[7, 0, 0], [1, -1, 0], [1, 0, 2], [1, 2, 0]]))
    assert np.isnan(found).tolist() == [True, True, True, False]


def test_a_label_that_does_not_fit_in_its_frames_teaches_nothing_as_in_torch():
    """Its loss of 10^5 swamped the mean of a batch."""
    torch = pytest.importorskip("torch")
    frames = np.array([3, 4, 1, 0])  # "abb" needs four frames: 3 are too few, and of 4 there is one path
    y, count = np.array([[1, 2, 2], [1, 2, 2], [1, 2, 0], [1, 0, 0]]), np.array([3, 3, 2, 1])
    there = np.arange(9)[None] < frames[:, None]

    def loss(z):
        return tasks.ctc_loss(Masked(z, jnp.asarray(there)), y)

    z = torch.tensor(logits(), requires_grad=True)
    theirs = torch.nn.CTCLoss(blank=0, reduction="none", zero_infinity=True)
    wanted = theirs(z.log_softmax(-1).transpose(0, 1), torch.tensor(y), torch.tensor(frames), torch.tensor(count))
    wanted.sum().backward()
    np.testing.assert_allclose(loss(jnp.asarray(logits())), wanted.detach(), rtol=1e-5)
    assert z.grad is not None
    np.testing.assert_allclose(jax.jit(jax.grad(lambda z: loss(z).sum()))(jnp.asarray(logits())), z.grad, atol=1e-5)
    metrics = tasks.ctc(Alphabet("abc")).metrics
    assert metrics["too_long"](Masked(jnp.asarray(logits()), jnp.asarray(there)), y).tolist() == [1, 0, 1, 1]


def test_the_best_path_collapses_repeats_and_drops_blanks():
    path = np.array([[1, 1, 0, 1, 2, 2], [0, 0, 3, 3, 0, 3], [2, 2, 2, 1, 1, 1]])
    there = np.array([[1] * 6, [1, 1, 1, 1, 1, 0], [0] * 6], bool)
    found = tasks.best_path(jnp.eye(4)[path], jnp.asarray(there))
    np.testing.assert_array_equal(found, [[1, 1, 2, 0, 0, 0], [3, 0, 0, 0, 0, 0], [0] * 6])


def test_the_error_rate_is_edits_over_characters():
    task = tasks.ctc(Alphabet("abc"))
    path = np.array([[1, 0, 2, 0], [3, 3, 3, 3]])
    output = Masked(jnp.eye(4)[path], jnp.ones((2, 4), bool))
    assert task.decode(output) == ["ab", "c"]
    cer = task.metrics["cer"]
    y = jnp.array([[1, 2, 3], [1, 2, 0]])  # "abc": one insertion; "ab": a substitution and an insertion
    np.testing.assert_allclose(cer.finish(cer.sums(output, y, None)), 3 / 5)
    np.testing.assert_allclose(cer.finish(cer.sums(output, y, jnp.array([True, False]))), 1 / 3)
