"""NWD against numpy's singular values, and its two players."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import domains, same_value_and_gradient
from nets import batch, dense, largest_difference, top

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.nwd import discrepancy, nwd
from jtl.metrics.accumulate import total
from jtl.networks import network

NET = network(backbone=dense(8), head=top(3))


def norm(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return np.linalg.svd(p / p.sum(1, keepdims=True), compute_uv=False).sum() / len(z)


def test_value_and_gradient_are_those_of_numpys_singular_values():
    a, b, one, other = domains(rows=(7, 10), width=3)
    same_value_and_gradient(
        lambda a, b: discrepancy(a, b, jnp.asarray(one), jnp.asarray(other)),
        lambda a, b: norm(a[one]) - norm(b[other]),
        a,
        b,
    )


def test_equal_domains_have_none_and_certain_sources_have_more():
    z = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    assert abs(float(discrepancy(jnp.asarray(z), jnp.asarray(z[::-1].copy())))) < 1e-6
    assert float(discrepancy(jnp.asarray(9 * z), jnp.asarray(z))) > 0.1
    assert float(discrepancy(jnp.asarray(z), jnp.asarray(z), None, jnp.zeros(6, bool))) == 0


def test_the_head_ascends_the_discrepancy_and_the_features_descend_it(key):
    """As minimised: `∂/∂head = −λ ∂D/∂head`, `∂/∂backbone = +λ ρ ∂D/∂backbone`, by plain singular values."""
    target = batch(n=16, seed=1, masked=True)
    rows = {"source": batch(n=12, masked=True), "target": {"x": 0.3 * target["x"], "mask": target["mask"]}}
    params = NET.init(key, rows["source"]["x"]).params
    x = [part["x"][part["mask"]] for part in rows.values()]

    def plain(backbone, head):
        norms = []
        for rows in x:
            f = jax.nn.relu(rows @ backbone["layer0"]["kernel"] + backbone["layer0"]["bias"][None])
            e = jnp.exp(f @ head["out"]["kernel"] + head["out"]["bias"][None])
            norms.append(jnp.linalg.svd(e / e.sum(1, keepdims=True), compute_uv=False).sum() / len(rows))
        return norms[0] - norms[1]

    value, (backbone, head) = jax.jit(jax.value_and_grad(plain, (0, 1)))(params["backbone"], params["head"])
    both = [adapt(NET, alignments=more) for more in ([nwd(NET, 0.5, reversal=0.3)], [])]
    terms, aux = jax.jit(lambda p: both[0](p, {}, rows, key, 0))(params)
    np.testing.assert_allclose(terms["nwd"].value, -0.5 * value, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["nwd_discrepancy"], value, rtol=1e-4)

    def added(params):
        own, without = (total(objective(params, {}, rows, key, 0)[0]) for objective in both)
        return own - without

    found = jax.jit(jax.grad(added))(params)
    assert largest_difference(found["head"], jax.tree.map(lambda g: -0.5 * g, head)) < 2e-6
    assert largest_difference(found["backbone"], jax.tree.map(lambda g: 0.15 * g, backbone)) < 2e-6
    assert min(float(jnp.abs(g).max()) for g in (head["out"]["kernel"], backbone["layer0"]["kernel"])) > 1e-2


def test_numbers_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="nwd: weight=-1"):
        nwd(NET, -1.0)
    with pytest.raises(ValueError, match="nwd: reversal=inf"):
        nwd(NET, reversal=float("inf"))
