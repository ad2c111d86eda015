import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, parts

from jtl import rng
from jtl.data.mixing import cutmix, mixup
from jtl.methods.finetune.finetune import finetune
from jtl.methods.mixed import mixed


def test_it_is_the_objective_on_what_the_mix_gives(key):
    rows = batch(masked=True)
    net, _, variables = parts(key, rows["x"])
    logits = net.apply(variables, rows["x"], train=False)[0].output
    mix = mixup(0.4, logits.shape[1])
    plain = finetune(net, metrics={}, frozen_stats=True)
    loss, _ = jax.jit(lambda *a: mixed(plain, mix)(*a))(variables.params, variables.stats, rows, key, 0)
    x, y = mix(rng.stream(key, "mix"), rows["x"], rows["y"], rows["mask"])
    p = jax.nn.log_softmax(net.apply(variables, x, train=False)[0].output)
    expected = -(np.asarray(y) * np.asarray(p)).sum(1)[np.asarray(rows["mask"])].mean()
    np.testing.assert_allclose(loss.value, expected, rtol=1e-5)


@pytest.mark.parametrize("mix", [mixup(1.0, 5), cutmix(1.0, 5)], ids=["mixup", "cutmix"])
def test_rows_left_out_reach_no_other(key, mix):
    n = 40
    mask = np.arange(n) % 3 != 0
    x = np.where(mask[:, None, None, None], np.arange(n)[:, None, None, None], np.nan) * np.ones((1, 4, 4, 1))
    y = np.where(mask, np.arange(n) % 4, 4)
    seen, labels = jax.jit(mix)(key, x.astype(np.float32), y, mask)
    assert np.isfinite(seen[mask]).all()
    np.testing.assert_array_equal(labels[mask][:, 4], 0)
    assert (np.asarray(seen)[mask] != x[mask]).any((1, 2, 3)).mean() > 0.5
    every = np.asarray(mix(key, x.astype(np.float32), y, np.ones(n))[1])
    np.testing.assert_array_equal(every, mix(key, x.astype(np.float32), y)[1])


def test_bad_batches_raise(key):
    objective = mixed(lambda *a: None, mixup(1.0, 3))
    x, y = jnp.ones((2, 4)), jnp.zeros(2, int)
    for rows in ({"x": x}, {"y": y}, {"x": x, "y": y, "weights": jnp.ones(2)}):
        with pytest.raises(ValueError, match="the batch to mix holds"):
            objective({}, {}, rows, key, 0)
