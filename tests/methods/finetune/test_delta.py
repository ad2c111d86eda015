import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, parts

from jtl.losses import cross_entropy
from jtl.methods.finetune.delta import channel_attention, delta, distance
from jtl.methods.finetune.finetune import finetune


def test_the_distance_is_the_sum_by_hand():
    draw = np.random.default_rng(0)
    f, start, a = draw.normal(size=(3, 4, 5, 6)), draw.normal(size=(3, 4, 5, 6)), draw.random(6)
    a /= a.sum()
    expected = np.zeros(3)
    for i in range(3):
        for c in range(6):
            expected[i] += 6 * a[c] * 0.5 * ((f[i, :, :, c] - start[i, :, :, c]) ** 2).sum() / 20
    np.testing.assert_allclose(distance(f, start, a), expected, rtol=1e-5)
    np.testing.assert_allclose(distance(f, start), distance(f, start, np.full(6, 1 / 6)), rtol=1e-6)
    assert distance(*2 * [jnp.ones((2, 3), jnp.bfloat16)]).dtype == jnp.float32


def test_the_term_is_zero_at_the_start_and_counts_the_rows_kept(key):
    rows = batch(masked=True)
    net, _, start = parts(key, rows["x"])
    a = np.linspace(0, 0.25, 8, dtype=np.float32)
    objective = finetune(net, terms=[delta(net, start, {"pooled": a, "last": None}, 0.5)])
    variables = objective.init(key, rows, start)
    assert float(objective(variables.params, variables.stats, rows, key, 0)[0]["delta"].value) == 0
    moved = start._replace(params=jax.tree.map(lambda w: 1.5 * w, start.params))
    found = objective(moved.params, variables.stats, rows, key, 0)[0]["delta"].value
    f, f0 = (np.asarray(net.apply(v, rows["x"], train=False)[0].features["pooled"]) for v in (moved, start))
    expected = 0.5 * ((8 * a + 1) * 0.5 * (f - f0) ** 2).sum(1)[rows["mask"]].mean()  # both are the same feature
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_attention_is_of_the_rise_of_the_loss_without_a_channel(key):
    rows = batch(masked=True)
    net, _, start = parts(key, rows["x"], widths=(4,))
    halves = [{name: a[part] for name, a in rows.items()} for part in (slice(0, 12), slice(12, 24))]
    found = channel_attention(
        net, start, halves, "layer0", channels=4, temperature=2.0, loss=lambda z, y: 4 * cross_entropy(z, y)
    )
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), start.params)

    def loss(without):
        h = rows["x"] @ p["backbone"]["layer0"]["kernel"] + p["backbone"]["layer0"]["bias"]
        h[:, without] = 0
        z = np.maximum(h, 0) @ p["head"]["out"]["kernel"] + p["head"]["out"]["bias"]
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        return -log_p[np.arange(len(z)), rows["y"]][rows["mask"]].mean()

    rise = np.array([loss([c]) for c in range(4)]) - loss([])
    expected = np.exp(rise / 0.5) / np.exp(rise / 0.5).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.ptp(expected) > 0.01


def test_bad_input_raises(key):
    rows = batch()
    net, _, start = parts(key, rows["x"])
    with pytest.raises(ValueError, match="of at least one feature"):
        delta(net, start, {})
    with pytest.raises(ValueError, match="one weight >= 0 for each channel"):
        delta(net, start, {"pooled": -np.ones(8)})
    objective = finetune(net, terms=[delta(net, start, {"pooled": jnp.ones(3)})])
    variables = objective.init(key, rows, start)
    with pytest.raises(ValueError, match="has 8 channels, and attention 3"):
        objective(variables.params, variables.stats, rows, key, 0)
    with pytest.raises(ValueError, match="no module 'layer9'"):
        channel_attention(net, start, [rows], "layer9", channels=4)
    with pytest.raises(ValueError, match="at least one labelled row"):
        channel_attention(net, start, [], "layer0", channels=16)
