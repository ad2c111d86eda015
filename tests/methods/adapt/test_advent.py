"""AdvEnt: its terms and gradients beside numpy, its critic beside torch, and a step of a segmentation network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from alignment_references import same_value_and_gradient
from nets import largest_difference

from jtl import alignments, heads, tasks
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.advent import advent, patch_critic, self_information
from jtl.methods.views import View
from jtl.metrics.accumulate import total
from jtl.model import from_linen
from jtl.networks import network
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step

KEY = jax.random.key(0)
MASKS = {"source": np.array([True, False, True]), "target": np.array([True, True, False, True])}
PIXELS = heads.per_position(1)  # a critic that is linear and sees pixels one by one


def maps(seed=0):
    draw = np.random.default_rng(seed)
    z = {d: 2 * draw.normal(size=(len(m), 2, 3, 4)) for d, m in MASKS.items()}
    for d, m in MASKS.items():
        z[d][~m] = np.nan
    return z["source"], z["target"]


def views(source, target, masks=MASKS):
    z = {"source": jnp.asarray(source), "target": jnp.asarray(target)}
    return {d: View({}, z[d], None, None, masks[d], {}) for d in z}


def information(z, mask):
    e = np.exp(z[mask])
    p = e / e.sum(-1, keepdims=True)
    return -p * np.log2(p) / np.log2(p.shape[-1])


def parts(source, target, kernel, bias):
    """The critic's loss, and how far the target is from fooling it, from the paper's formulas."""
    s, t = (information(z, m) @ kernel + bias for z, m in zip((source, target), MASKS.values(), strict=True))
    softplus = lambda z: np.log1p(np.exp(z))  # noqa: E731
    return (softplus(-s).mean() + softplus(t).mean()) / 2, softplus(-t).mean()


def test_the_terms_are_the_formula_and_each_trains_its_own_side():
    z, alignment, draw = maps(), advent(PIXELS, 0.3), np.random.default_rng(1)
    kernel, bias = draw.normal(size=(4, 1)), draw.normal(size=1)

    def ours(source, target, kernel, bias):
        params = {"critic": {"out": {"kernel": kernel, "bias": bias}}}
        return total(alignment(params, {}, views(source, target), KEY, 0)[0])

    def value(*arrays):
        critic, fooled = parts(*arrays)
        return critic + 0.3 * fooled

    def trained(source, target, kernel, bias):
        """The critic learns from the first part alone, the network from the second alone."""
        return parts(*z, kernel, bias)[0] + 0.3 * parts(z[0], target, *critic)[1]

    critic = kernel, bias
    same_value_and_gradient(ours, value, *z, kernel, bias, of=trained)


def test_metrics_count_patches_and_a_target_without_rows_gives_no_term():
    z, alignment = maps(), advent(PIXELS, lambda step: 0.1 * step)
    made = jax.jit(alignment.init)(KEY, views(*z))
    loss = jax.jit(lambda p, t, mask: alignment(p, {}, views(z[0], t, {**MASKS, "target": mask}), KEY, 3))
    terms, aux = loss(made.params, z[1], MASKS["target"])
    kernel, bias = (np.asarray(made.params["critic"]["out"][n], float) for n in ("kernel", "bias"))
    s, t = (information(a, m) @ kernel + bias for a, m in zip(z, MASKS.values(), strict=True))
    np.testing.assert_allclose(aux.metrics["critic_accuracy"].value, np.concatenate([s > 0, t <= 0]).mean(), rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["critic_weight"], 0.3)
    np.testing.assert_allclose(terms["critic_fooled"].value, 0.3 * parts(*z, kernel, bias)[1], rtol=1e-5)
    slopes = jax.jit(jax.grad(lambda *arrays: total(loss(*arrays)[0]), (0, 1)))
    grad = slopes(made.params, np.full_like(z[1], np.nan), np.zeros(4, bool))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))
    assert (grad[1] == 0).all()


def test_certain_pixels_have_finite_gradients():
    z = jnp.array([[900.0, 0.0, -900.0], [0.0, -jnp.inf, 0.0]])
    half = np.log(2) / 2 / np.log(3)
    np.testing.assert_allclose(self_information(z), [[0, 0, 0], [half, 0, half]], atol=1e-6)
    assert np.isfinite(jax.jit(jax.grad(lambda z: self_information(z).sum()))(z)).all()


def test_the_critic_is_the_authors():
    torch = pytest.importorskip("torch")
    critic, x = patch_critic((3, 5)), np.random.default_rng(0).normal(size=(2, 16, 24, 4)).astype(np.float32)
    made = jax.jit(critic.init)(KEY, x)
    found = jax.jit(lambda made: critic.apply(made, x, train=True)[0])(made)
    y = torch.tensor(x).permute(0, 3, 1, 2)
    for name in ("conv1", "conv2", "out"):
        kernel = torch.tensor(np.asarray(made.params[name]["kernel"])).permute(3, 2, 0, 1)
        y = torch.nn.functional.conv2d(y, kernel, torch.tensor(np.asarray(made.params[name]["bias"])), 2, 1)
        y = y if name == "out" else torch.nn.functional.leaky_relu(y, 0.2)
    np.testing.assert_allclose(found, y.permute(0, 2, 3, 1), atol=1e-5)
    widths = jax.eval_shape(patch_critic().init, KEY, x).params
    assert [widths[n]["kernel"].shape[-1] for n in sorted(widths)] == [64, 128, 256, 512, 1]


class Pixels(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Dense(4, name="layer")(x))
        return {"last": x, "pooled": x.mean((1, 2))}


TASK = tasks.segmentation(3)
NET = network(backbone=from_linen(Pixels()), head=heads.per_position(3))


def batch():
    draw = np.random.default_rng(0)
    rows = {d: {"x": draw.normal(size=(16, 4, 6, 2)).astype(np.float32) + i} for i, d in enumerate(MASKS)}
    y = draw.integers(0, 3, (16, 4, 6))
    rows["source"] |= {"y": np.where(draw.random(y.shape) < 0.3, 255, y), "mask": np.arange(16) % 4 != 1}
    return rows


def test_parts_and_devices_take_the_step_of_one_for_all_terms_of_segmentation():
    """FDA, MinEnt and AdvEnt together; the mask of the source and the label to ignore leave pixels out."""
    terms = [alignments.minent(0.5, eta=2.0), advent(PIXELS, 0.5)]
    inner = adapt(NET, TASK.loss, terms, metrics=TASK.metrics, ignore=TASK.ignore)
    objective, rows = alignments.fda(inner, 0.3), batch()
    variables = objective.init(KEY, rows)
    assert variables.params["critic"]["out"]["kernel"].shape == (3, 1)
    # The terms' means over rows of each part weigh by their counts.
    step = make_step(objective, optax.sgd(0.5))
    wanted, metrics = jax.device_get(jax.jit(step)(step.init(variables, KEY), rows))
    assert largest_difference(wanted.params["critic"], variables.params["critic"]) > 1e-4
    halves = make_step(objective, optax.sgd(0.5), microbatch=2)
    found = [jax.jit(halves)(halves.init(variables, KEY), rows)]
    run, state = jit_step(step, step.init(variables, KEY), mesh())
    found.append(run(state, put_batch(rows, mesh())))
    for state, measured in found:
        assert largest_difference(jax.device_get(state.params), wanted.params) < 1e-5
        for name in ("loss", "minent", "critic_fooled", "critic_accuracy", "iou"):
            np.testing.assert_allclose(np.asarray(measured[name]), metrics[name], rtol=1e-5, err_msg=name)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="critic: weight=nan"):
        advent(weight=float("nan"))
    with pytest.raises(ValueError, match=r"widths\[1\]=0"):
        patch_critic((4, 0))
    rows = {d: v._replace(output=jnp.zeros((4, 3))) for d, v in views(*maps()).items()}
    with pytest.raises(ValueError, match="critic: the output of 'source' must be maps of logits"):
        advent(PIXELS).init(KEY, rows)
    two, looked = advent(heads.per_position(2)), views(*maps())
    made = two.init(KEY, looked)
    with pytest.raises(ValueError, match=r"returns \(7, 2, 3, 2\) for 7 rows; .*or a map of them"):
        two(made.params, {}, looked, KEY, 0)
    with pytest.raises(ValueError, match="critic needs a view 'target'"):
        two(made.params, {}, {"source": looked["source"]}, KEY, 0)
