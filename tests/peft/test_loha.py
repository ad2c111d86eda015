"""LoHa on a small ViT: against the paper's formula in NumPy, the merged network, and PEFT's first values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_vit import adapter_of, base, randomised, run

from jtl import peft
from jtl.params import flatten

WHERE = (r"block\d/attention/query", "block2/mlp/up", "embed")
PATHS = ("block1/attention/query", "block2/mlp/up", "embed")


def element(part, i, at):
    """One number of a factor by its sums over ranks: (output, input), and the place in a kernel of a convolution."""
    (c, o, *place), ranks = at, range(part[f"b{i}"].shape[0])
    a, b = part[f"a{i}"], part[f"b{i}"]
    if f"t{i}" in part:
        return sum(a[c, p] * part[f"t{i}"][*place, p, q] * b[q, o] for p in ranks for q in ranks)
    return sum((a[*place, c, q] if place else a[c, q]) * b[q, o] for q in ranks)


@pytest.mark.parametrize("tucker", [False, True])
def test_starts_as_the_base_and_merges_to_the_formula(tucker):
    """W + alpha / rank times the product of two numbers, each a sum, at dense layers and a convolution of patches."""
    net, variables = base()
    adapter = peft.loha(3, WHERE, alpha=6, tucker=tucker, ranks={".*/up": 2}, alphas={"embed": 9.0})
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    np.testing.assert_allclose(run(adapted, more), run(net, variables), rtol=0, atol=1e-5)
    changed = randomised(more)
    merged = peft.merge(changed, adapter)
    found = run(adapted, changed)
    np.testing.assert_allclose(run(net, merged), found, rtol=0, atol=1e-4)
    assert np.abs(found - run(net, variables)).max() > 1e-2
    for path, scale in zip(PATHS, (2, 3, 3), strict=True):
        kernel = np.asarray(flatten(variables.params)[f"backbone/{path}/kernel"], np.float64)
        after, part = flatten(merged.params)[f"backbone/{path}/kernel"], adapter_of(changed, path)
        assert len(part) == (6 if tucker and path == "embed" else 4)
        for at in [(0, 1), (1, 0), (2, 5)]:
            for place in [(0, 3), (2, 1)] if kernel.ndim == 4 else [()]:
                expected = kernel[*place, *at] + scale * element(part, 1, (*at, *place)) * element(
                    part, 2, (*at, *place)
                )
                np.testing.assert_allclose(after[*place, *at], expected, rtol=1e-5, atol=1e-5)


def test_reaches_a_rank_of_the_square():
    """Rank 2 gives an update of rank 4, where LoRA of as many parameters, rank 4, gives no more."""
    net, variables = base()
    adapter = peft.loha(2, WHERE[:1])
    changed = randomised(peft.attach(net, variables, adapter, jax.random.key(1))[1])
    path = "backbone/block1/attention/query/kernel"
    update = np.asarray(flatten(peft.merge(changed, adapter).params)[path]) - flatten(variables.params)[path]
    values = np.linalg.svd(update, compute_uv=False)
    assert values[3] > 1e-3 * values[0] > 100 * values[4]


FIRST = {"a1": "w1_b", "b1": "w1_a", "a2": "w2_b", "b2": "w2_a", "t1": "t1", "t2": "t2"}


@pytest.mark.parametrize("kind", ["dense", "convolution", "tucker"])
def test_starts_as_peft_draws(kind):
    """The range of each factor is PEFT's, to what the largest of so many numbers leaves open; A2 is 0."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    layer = pytest.importorskip("peft", reason="PEFT is the reference of its start").tuners.loha.layer
    config = layer.LoHaConfig(r=16, alpha=16, use_effective_conv2d=kind == "tucker")
    torch.manual_seed(0)
    if kind == "dense":
        theirs, shape = layer.Linear(torch.nn.Linear(96, 48), "x", config, 16, 16), (96, 48)
    else:
        theirs, shape = layer.Conv2d(torch.nn.Conv2d(96, 48, (3, 2)), "x", config, 16, 16), (3, 2, 96, 48)
    params = peft.loha(16, (".*",), tucker=kind == "tucker").init(jax.random.key(0), "x", {"kernel": jnp.zeros(shape)})
    wanted = {name: getattr(theirs, f"hada_{theirs_name}") for name, theirs_name in FIRST.items()}
    wanted = {name: leaf["x"].detach().numpy() for name, leaf in wanted.items() if "x" in leaf}
    assert params.keys() == wanted.keys()
    for name, leaf in params.items():
        assert leaf.size == wanted[name].size
        np.testing.assert_allclose(np.abs(leaf).max(), np.abs(wanted[name]).max(), rtol=0.02, err_msg=name)
    assert not np.any(params["a2"])


def test_what_would_be_wrong_raises():
    net, variables = base()
    for options, said in (
        ({"rank": 0}, "rank=0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"ranks": {".*/up": 0}}, r"ranks\['\.\*/up'\]=0"),
        ({"alphas": {".*/up": -1.0}}, r"alphas\['\.\*/up'\]=-1\.0"),
    ):
        with pytest.raises(ValueError, match=said):
            peft.loha(**{"rank": 2, "where": WHERE} | options)
    with pytest.raises(ValueError, match=r"'nowhere'.*match none of the adapted modules"):
        peft.attach(net, variables, peft.loha(2, WHERE, ranks={"nowhere": 3}), jax.random.key(0))
    odd = variables._replace(params={"embed": {"kernel": np.ones((2, 3, 4), np.float32)}})
    with pytest.raises(ValueError, match=r"'embed' is \(2, 3, 4\); LOHA takes dense layers"):
        peft.attach(net, odd, peft.loha(2, ("embed",)), jax.random.key(0))
