"""Merged adapters taken out again: the variables before the merge, for each method that merges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_vit import IMAGES, base, run

from jtl import peft
from jtl.params import flatten, unflatten

QV = (r"block\d/attention/(query|value)",)
WITH_CONVOLUTION = ("embed", ".*/mlp/up")
KINDS = {
    "lora": peft.lora(3, QV, alpha=6),
    "rslora": peft.lora(3, QV, alpha=6, rank_stabilised=True),
    "patterns": peft.lora(3, QV, alpha=6, ranks={".*/value": 5}, alphas={"block1/.*": 2.0}),
    "convolution": peft.lora(2, WITH_CONVOLUTION, alpha=3),
    "adalora": peft.adalora(3, (*QV, *WITH_CONVOLUTION), alpha=6, ranks={".*/value": 2}),
    "pissa": peft.lora(3, QV, alpha=6, start="pissa"),
    "vera": peft.vera(QV, peft.projections(jax.random.key(3), 8, 16, 16)),
    "loha": peft.loha(2, (*QV, *WITH_CONVOLUTION), alpha=3, tucker=True),
    "lokr": peft.lokr(1, (*QV, *WITH_CONVOLUTION), alpha=3, both=True, tucker=True),
    "hra": peft.hra(3, QV),
    "fourierft": peft.fourierft(9, QV, scale=30.0),
    "ia3": peft.ia3(("embed", ".*/attention/key"), inputs=(".*/mlp/down",)),
    "oft": peft.oft(QV, 4),
    "oft series": peft.oft(QV, 4, terms=5),
    "ssf": peft.ssf((*WITH_CONVOLUTION, r"block\d/norm1")),
}


def learned(variables):
    """As after training: factors near 1, and all else of an adapter random."""
    draw = np.random.default_rng(2)
    flat = {
        path: np.float32(path.endswith(("/scale", "/gamma"))) + (0.2 * draw.normal(size=leaf.shape)).astype(np.float32)
        if "/adapter/" in path
        else leaf
        for path, leaf in flatten(variables.params).items()
    }
    return variables._replace(params=unflatten(flat))


def attached(kind):
    net, variables = base()
    adapted, more = peft.attach(net, variables, KINDS[kind], jax.random.key(1))
    return net, adapted, learned(more)


@pytest.mark.parametrize("kind", KINDS)
def test_gives_what_was_merged(kind):
    """To 1e-5 in float32, and not because nothing happened: the merge itself moves a kernel by more than 1e-2."""
    _, _, before = attached(kind)
    merged = peft.merge(before, KINDS[kind])
    back = flatten(peft.unmerge(merged, KINDS[kind], before.params["backbone"]["adapter"]).params)
    first, moved = flatten(before.params), flatten(merged.params)
    assert back.keys() == first.keys()
    for path, leaf in first.items():
        assert back[path].dtype == leaf.dtype
        np.testing.assert_allclose(back[path], leaf, rtol=0, atol=1e-5, err_msg=path)
    assert max(np.abs(moved[path] - first[path]).max() for path in moved) > 1e-2


def test_works_inside_jit_and_on_a_bare_backbone():
    net, adapted, before = attached("ia3")
    params = before.params["backbone"]["adapter"]
    back = jax.jit(lambda v, p: peft.unmerge(peft.merge(v, KINDS["ia3"]), KINDS["ia3"], p))(before, params)
    np.testing.assert_allclose(run(adapted, back), run(adapted, before), rtol=0, atol=1e-4)
    bare = before._replace(params=before.params["backbone"])
    found = peft.unmerge(peft.merge(bare, KINDS["ia3"]), KINDS["ia3"], params)
    for path, leaf in flatten(bare.params).items():
        np.testing.assert_allclose(flatten(found.params)[path], leaf, rtol=0, atol=1e-5)
    assert net.apply(peft.merge(before, KINDS["ia3"]), IMAGES, train=False)[0].output.shape == (4, 3)


def test_one_of_two_adapters_is_taken_out():
    _, adapted, before = attached("lora")
    other = peft.ia3((".*/attention/key",))
    _, before = peft.attach(adapted, before, other, jax.random.key(4))
    before = learned(before)
    params = before.params["backbone"]["adapter"]
    merged = peft.merge(before, KINDS["lora"])  # the other one stays beside it
    back = flatten(peft.unmerge(merged, KINDS["lora"], params).params)
    assert back.keys() == flatten(before.params).keys()
    for path, leaf in flatten(before.params).items():
        np.testing.assert_allclose(back[path], leaf, rtol=0, atol=1e-5)


def test_a_base_in_bfloat16_keeps_its_dtype():
    net, variables = base()
    low = variables._replace(params=jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), variables.params))
    _, more = peft.attach(net, low, KINDS["lora"], jax.random.key(1))
    before = learned(more)
    back = peft.unmerge(peft.merge(before, KINDS["lora"]), KINDS["lora"], before.params["backbone"]["adapter"])
    for path, leaf in flatten(low.params).items():
        assert flatten(back.params)[path].dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(flatten(back.params)[path], np.float32), np.asarray(leaf, np.float32), rtol=0, atol=2e-2
        )


def test_what_has_no_inverse_is_told():
    net, variables = base()
    dora = peft.lora(3, QV, magnitude=True)
    _, more = peft.attach(net, variables, dora, jax.random.key(1))
    with pytest.raises(ValueError, match="DoRA at 'block1/attention/query' cannot be unmerged"):
        peft.unmerge(peft.merge(more, dora), dora, more.params["backbone"]["adapter"])
    beside = peft.bottleneck((".*/mlp",), width=16, inner=2)
    _, more = peft.attach(net, variables, beside, jax.random.key(1))
    with pytest.raises(ValueError, match="the adapter of 'block1/mlp' has no inverse of a merge"):
        peft.unmerge(variables, beside, more.params["backbone"]["adapter"])


def test_what_does_not_fit_is_told():
    _, _, before = attached("ia3")
    params, adapter = before.params["backbone"]["adapter"], KINDS["ia3"]
    with pytest.raises(ValueError, match="the module 'block1/attention/key' has an adapter, so none is merged into it"):
        peft.unmerge(before, adapter, params)
    merged = peft.merge(before, adapter)
    with pytest.raises(ValueError, match=r"hold no adapter of the module 'block1/attention/key', only of \['embed'\]"):
        peft.unmerge(merged, adapter, {"embed": params["embed"]})
    dead = {**params, "embed": {"scale": params["embed"]["scale"] * (np.arange(16) != 3)}}
    with pytest.raises(ValueError, match=r"the adapter of 'embed' multiplied by 0 at \[3\]"):
        peft.unmerge(merged, adapter, dead)
