import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, parts

from jtl.methods.finetune.feature_distillation import feature_distillation, half_squares
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import total


def test_the_term_is_half_of_torchs_mse_of_the_rows_kept(key):
    torch = pytest.importorskip("torch")
    rows = batch(masked=True)
    net, _, start = parts(key, rows["x"])
    teacher, _, other = parts(jax.random.key(5), rows["x"], widths=(4, 6))
    objective = finetune(net, terms=[feature_distillation(teacher, other, 0.5, project=True)])
    variables = objective.init(key, rows, start)
    kernel = variables.params["feature_distillation"]["kernel"]
    assert kernel.shape == (8, 6)
    loss, _ = objective(variables.params, variables.stats, rows, key, 0)
    f = np.asarray(net.apply(start, rows["x"], train=False)[0].features["pooled"] @ kernel)[rows["mask"]]
    t = np.asarray(teacher.apply(other, rows["x"], train=False)[0].features["pooled"])[rows["mask"]]
    expected = 0.25 * torch.nn.functional.mse_loss(torch.tensor(f), torch.tensor(t))
    np.testing.assert_allclose(loss["feature_distillation"].value, expected, rtol=1e-5)


def test_a_masked_nan_reaches_no_gradient_and_the_teacher_gets_none(key):
    rows = batch(masked=True)
    net, _, start = parts(key, rows["x"])
    objective = finetune(net, terms=[feature_distillation(net, jax.tree.map(lambda a: 1.1 * a, start))])
    variables = objective.init(key, rows, start)

    def loss(params, stats, x):
        return total(objective(params, stats, {**rows, "x": x}, key, 0)[0])

    slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))
    clean = slopes(variables.params, variables.stats, jnp.asarray(rows["x"]))
    broken = slopes(variables.params, variables.stats, jnp.where(rows["mask"][:, None], rows["x"], jnp.nan))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(broken), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(clean[1]))


def test_bad_input_raises(key):
    rows = batch()
    net, _, start = parts(key, rows["x"])
    with pytest.raises(ValueError, match="project=True where widths differ"):
        half_squares(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    objective = finetune(net, terms=[feature_distillation(net, start, feature="map")])
    variables = objective.init(key, rows, start)
    with pytest.raises(ValueError, match="network: feature='map' must be"):
        objective(variables.params, variables.stats, rows, key, 0)
    objective = finetune(net, terms=[feature_distillation(net, start, of_teacher="map")])
    with pytest.raises(ValueError, match="teacher: feature='map' must be"):
        objective(variables.params, variables.stats, rows, key, 0)
    with pytest.raises(ValueError, match="already hold"):
        finetune(net, terms=[feature_distillation(net, start)] * 2).init(key, rows, start)
