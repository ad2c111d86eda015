import jax
import jax.numpy as jnp
import numpy as np
from alignment_references import GOLDEN, LOGITS, domains, same_value_and_gradient

from jtl.methods.adapt.entropy import information_loss


def test_the_golden_value():
    # Its entropies are those of log(p + 1e-5).
    found = information_loss(LOGITS)
    np.testing.assert_allclose(found, GOLDEN["information_maximisation_mean_H_minus_H_mean"], atol=1e-4)


def test_value_and_gradient_are_minus_the_mutual_information():
    z, _, mask, _ = domains(rows=(9, 2))

    def expected(z):
        e = np.exp(z[mask])
        p = e / e.sum(1, keepdims=True)
        return -np.mean((p * np.log(p / p.mean(0))).sum(1))

    same_value_and_gradient(lambda z: information_loss(z, mask), expected, z)


def test_sure_predictions_have_a_finite_gradient():
    assert np.isfinite(jax.grad(information_loss)(jnp.array([[300.0, 0.0, -600.0], [0.0, 300.0, -600.0]]))).all()
