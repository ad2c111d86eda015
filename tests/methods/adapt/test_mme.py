"""MME against its two players, each written from the paper's formula and differentiated alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, largest_difference, top

from jtl import heads
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.mme import mme
from jtl.metrics.accumulate import total
from jtl.networks import network

NET = network(backbone=dense(8), head=heads.cosine(3, temperature=0.5))


def rows():
    target = batch(n=16, seed=1, masked=True)
    few = batch(n=4, seed=2)
    return {"source": batch(n=12, masked=True), "few": few, "target": {"x": target["x"], "mask": target["mask"]}}


def uncertainty(backbone, head, x):
    """`H = −mean Σ_c p_c log p_c` with `p = softmax(cos(f, w_c) / T)`."""
    f = jax.nn.relu(x @ backbone["layer0"]["kernel"] + backbone["layer0"]["bias"][None])
    w = head["out"]["kernel"]
    cosines = f @ w / jnp.linalg.norm(f, axis=1, keepdims=True) / jnp.linalg.norm(w, axis=0, keepdims=True)
    e = jnp.exp(cosines / 0.5)
    p = e / e.sum(1, keepdims=True)
    return -(p * jnp.log(p)).sum(1).mean()


def test_the_head_ascends_the_entropy_and_the_features_descend_it(key):
    """As minimised: `∂/∂head = −λ ∂H/∂head`, `∂/∂backbone = +λ ∂H/∂backbone`."""
    data, weight = rows(), 0.3
    params = NET.init(key, data["source"]["x"]).params
    params["backbone"]["layer0"]["bias"] += 1.0  # a row whose features are all 0 has no cosine
    x = data["target"]["x"][data["target"]["mask"]]
    labelled = ("source", "few")
    both = [adapt(NET, alignments=more, labelled=labelled) for more in ([mme(NET, weight)], [])]
    terms, aux = jax.jit(lambda p: both[0](p, {}, data, key, 0))(params)
    value, (backbone, head) = jax.jit(jax.value_and_grad(uncertainty, (0, 1)))(params["backbone"], params["head"], x)
    np.testing.assert_allclose(terms["mme"].value, -weight * value, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["mme_entropy"].value, value, rtol=1e-5)

    def added(params):
        own, without = (total(objective(params, {}, data, key, 0)[0]) for objective in both)
        return own - without

    found = jax.jit(jax.grad(added))(params)
    assert largest_difference(found["head"], jax.tree.map(lambda g: -weight * g, head)) < 1e-6
    assert largest_difference(found["backbone"], jax.tree.map(lambda g: weight * g, backbone)) < 1e-6
    assert min(float(jnp.abs(g).max()) for g in (head["out"]["kernel"], backbone["layer0"]["kernel"])) > 1e-2
    assert set(terms) == {"source", "few", "mme"}


def test_what_does_not_fit_is_refused(key):
    with pytest.raises(ValueError, match="mme: weight=-1"):
        mme(NET, -1.0)
    with pytest.raises(ValueError, match=r"mme: the network has the heads \['a', 'b'\]"):
        mme(network(backbone=dense(8), a=top(2), b=top(2)))
    one, data = network(backbone=dense(8), head=top(1)), rows()
    params = one.init(key, data["source"]["x"]).params
    with pytest.raises(ValueError, match=r"mme: the head returns \(16, 1\)"):
        adapt(one, lambda z, y: z[:, 0], [mme(one)], metrics={})(params, {}, data, key, 0)
