"""Classification against torch."""

import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tasks


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_torchs(smoothing):
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    logits, y = draw.normal(size=(5, 4)).astype(np.float32), draw.integers(0, 4, 5)
    found = tasks.classification(4, smoothing=smoothing).loss(jnp.asarray(logits), y)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(y), reduction="none", label_smoothing=smoothing
    )
    np.testing.assert_allclose(found, theirs, rtol=1e-5)


def test_classes_are_decoded_to_names_or_numbers():
    output = np.array([[0.1, 2.0], [3.0, -1.0]])
    assert tasks.classification(("cat", "dog")).decode(output) == ["dog", "cat"]
    assert tasks.classification(2).decode(output).tolist() == [1, 0]
