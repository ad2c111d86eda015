import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import GOLDEN, LOGITS, domains, same_value_and_gradient

from jtl.methods.adapt.mcc import mcc, mcc_loss


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def weights_of(z):
    p = softmax(z / 2.5)
    w = 1 + np.exp((p * np.log(p)).sum(1))
    return len(z) * w / w.sum()


def by_confusion(z, w):
    """The paper's steps: class correlation, normalised rows, what is off the diagonal."""
    p = softmax(z / 2.5)
    c = np.sum([wi * np.outer(pi, pi) for wi, pi in zip(w, p, strict=True)], axis=0)
    c = c / c.sum(1, keepdims=True)
    return (c.sum() - np.trace(c)) / z.shape[1]


def test_the_golden_value():
    # Its entropies are those of log(p + 1e-5).
    np.testing.assert_allclose(mcc_loss(LOGITS), GOLDEN["mcc_T2.5"], atol=2e-5)


def test_value_and_gradient_are_those_of_the_papers_steps():
    z, _, mask, _ = domains(rows=(9, 2))
    w = weights_of(z[mask])  # constants for the gradient
    same_value_and_gradient(lambda z: mcc_loss(z, mask), lambda z: by_confusion(z[mask], w), z)


def test_a_class_that_underflows_has_a_finite_gradient():
    z = jnp.array([[300.0, 0.0, -600.0], [0.0, 300.0, -600.0]])
    value, gradient = jax.value_and_grad(mcc_loss)(z)
    assert 0 <= float(value) <= 1
    assert np.isfinite(gradient).all()


def test_bad_input_raises():
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature={temperature}"):
            mcc(temperature=temperature)
