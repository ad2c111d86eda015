"""Spectral decoupling against numpy: rows of several views under masks and weights, centres, parts and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, largest_difference, parts

from jtl.methods.adapt.adapt import adapt
from jtl.methods.finetune.finetune import finetune
from jtl.methods.finetune.spectral_decoupling import spectral_decoupling
from jtl.methods.views import View
from jtl.metrics.accumulate import total
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

SIZES, CENTRES = {"a": 6, "b": 9}, (0.3, -1.0, 2.5)


def views():
    draw = np.random.default_rng(0)
    return {
        name: View({}, jnp.asarray(draw.normal(size=(n, 3)), jnp.float32), None, jnp.asarray(draw.integers(0, 3, n)),
                   jnp.asarray(draw.random(n) < 0.7), {"weights": jnp.asarray(draw.integers(1, 3, n))})
        for name, n in SIZES.items()
    }  # fmt: skip


def rows(looked):
    """The logits and labels of the rows that count, those of weight 2 twice, of all domains in one array."""
    times = {n: np.where(v.mask, v.rows["weights"], 0) for n, v in looked.items()}
    return tuple(
        np.concatenate([np.repeat(np.asarray(get(v)), times[n], 0) for n, v in looked.items()])
        for get in (lambda v: v.output, lambda v: v.y)
    )


@pytest.mark.parametrize("centre", [0.0, 1.5, CENTRES])
def test_value_and_gradient_are_those_of_the_mean_over_all_rows(centre):
    looked, term = views(), spectral_decoupling(lambda step: 0.5 * step, centre=centre, domains=("a", "b"))

    def value(z):
        return total(term({}, {}, {n: v._replace(output=z[n]) for n, v in looked.items()}, None, 3)[0])

    z = {n: jnp.where(v.mask[:, None], v.output, jnp.nan) for n, v in looked.items()}
    found, slopes = jax.jit(jax.value_and_grad(value))(z)
    kept, y = rows(looked)
    at = np.array(centre)[y][:, None] if centre is CENTRES else centre
    np.testing.assert_allclose(found, 1.5 / 2 * np.square(kept - at).mean(), rtol=1e-6)
    for name, view in looked.items():
        at = np.array(centre)[view.y][:, None] if centre is CENTRES else centre
        w = np.where(view.mask, view.rows["weights"], 0)[:, None]
        wanted = 1.5 * w * (np.asarray(view.output) - at) / kept.size
        np.testing.assert_allclose(slopes[name], wanted, rtol=1e-5, atol=1e-9)


def test_one_logit_has_two_classes_and_no_rows_give_zero():
    z, y = jnp.array([[1.0], [-2.0]]), jnp.array([1, 0])
    looked = {"source": View({}, z, None, y, None, {})}
    found = total(spectral_decoupling(1.0, centre=(0.44, 2.5))({}, {}, looked, None, 0)[0])
    np.testing.assert_allclose(found, (1.5**2 + 2.44**2) / 4, rtol=1e-6)
    none = {"source": looked["source"]._replace(output=z * jnp.nan, mask=jnp.zeros(2, bool))}
    assert float(total(spectral_decoupling()({}, {}, none, None, 0)[0])) == 0


def test_parts_and_devices_take_the_step_of_one(key):
    both = {n: batch(n=16, seed=i, masked=True) for i, n in enumerate(SIZES)}
    net, _, start = parts(key, both["a"]["x"])
    objective = adapt(
        net, alignments=[spectral_decoupling(5.0, centre=CENTRES, domains=("a", "b"))], labelled=("a", "b")
    )
    steps = [make_step(objective, optax.sgd(0.1), microbatch=m) for m in (1, 2)]
    state = steps[0].init(start, key)
    (one, found), (halves, of_halves) = (jax.jit(step)(state, both) for step in steps)
    many, of_each = pmap_step(steps[0])(replicated(state), split_batch(both))
    assert largest_difference(halves.params, one.params) < 1e-6
    assert largest_difference(jax.device_get(unreplicated(many)).params, one.params) < 1e-6
    for other in (of_halves, of_each):
        np.testing.assert_allclose(np.ravel(other["spectral_decoupling"])[0], found["spectral_decoupling"], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ()}, r"domains=\(\)"),
        ({"domains": "ab"}, "domains='ab'"),
        ({"domains": ("a", "a")}, "domains="),
        ({"centre": float("nan")}, "centre=nan"),
        ({"centre": (0.0, float("inf"))}, r"centre\[1\]=inf"),
        ({"centre": (0.0, 1.0)}, r"2 centres for logits \(24, 3\)"),
        ({"head": "old"}, "head='old': the network has one head alone"),
        ({"domains": ("target",)}, "spectral_decoupling needs a view 'target'"),
    ],
)
def test_what_does_not_fit_is_refused(key, options, message):
    def run():
        rows = batch()
        net, _, _ = parts(key, rows["x"])
        objective = finetune(net, terms=[spectral_decoupling(1.0, **options)])
        return jax.eval_shape(lambda: objective(objective.init(key, rows).params, {}, rows, key, 0)[0])

    with pytest.raises(ValueError, match=message):
        run()
