"""LoKr on a small ViT: against NumPy's Kronecker product, the merged network, and PEFT's widths and first values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_vit import adapter_of, base, randomised, run

from jtl import peft
from jtl.params import flatten
from jtl.peft.lokr import divided

WHERE = (r"block\d/attention/query", "block2/mlp/up", "embed")
PATHS = ("block1/attention/query", "block2/mlp/up", "embed")
FULL, LOW, CORE = {"w1", "w2"}, {"w1", "w2_a", "w2_b"}, {"w1_a", "w1_b", "w2_a", "w2_b", "t"}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"rank": 3}, [FULL, LOW, FULL]),  # query 4·4 to 4·4, up 4·4 to 4·8, the patches 1·3 to 4·4
        ({"rank": 1, "factor": 2}, [LOW, LOW, LOW]),
        ({"rank": 1, "both": True, "tucker": True}, [CORE - {"t"}, CORE - {"t"}, CORE]),
    ],
)
def test_starts_as_the_base_and_merges_to_the_kronecker_product(options, names):
    net, variables = base()
    adapter = peft.lokr(**options, where=WHERE, alpha=6, alphas={"embed": 3.0})
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    np.testing.assert_allclose(run(adapted, more), run(net, variables), rtol=0, atol=1e-5)
    changed = randomised(more)
    merged = peft.merge(changed, adapter)
    found = run(adapted, changed)
    np.testing.assert_allclose(run(net, merged), found, rtol=0, atol=1e-4)
    assert np.abs(found - run(net, variables)).max() > 1e-2
    for path, given, alpha in zip(PATHS, names, (6, 6, 3), strict=True):
        part = adapter_of(changed, path)
        assert part.keys() == given
        first = part["w1"] if "w1" in part else part["w1_a"] @ part["w1_b"]
        kernel = np.asarray(flatten(variables.params)[f"backbone/{path}/kernel"], np.float64)
        after = flatten(merged.params)[f"backbone/{path}/kernel"]
        for place in np.ndindex(kernel.shape[:-2]):
            if "w2" in part:
                second = part["w2"][place]
            elif "t" in part:
                second = part["w2_a"] @ part["t"][place] @ part["w2_b"]
            else:
                second = part["w2_a"][place] @ part["w2_b"]
            expected = kernel[place] + alpha / options["rank"] * np.kron(first, second)
            np.testing.assert_allclose(after[place], expected, rtol=1e-5, atol=1e-5)


def test_widths_are_divided_as_by_peft():
    """Near the root, near a factor that is no divisor, and by one that is, also where it is above the root."""
    factorization = pytest.importorskip("peft", reason="PEFT is the reference").tuners.lokr.layer.factorization
    for width in (1, 2, 7, 12, 30, 36, 97, 128, 720, 768):
        for factor in (None, *range(1, 20), width):
            assert divided(width, factor) == tuple(factorization(width, -1 if factor is None else factor))


FIRST = {"w1": "w1", "w1_a": "w1_b", "w1_b": "w1_a", "w2": "w2", "w2_a": "w2_b", "w2_b": "w2_a", "t": "t2"}


@pytest.mark.parametrize(
    ("sides", "options"),
    [
        ((), {"both": True, "factor": 64}),
        ((), {"factor": 2}),
        ((3, 2), {"factor": 16}),
        ((3, 2), {"factor": 2}),
        ((3, 2), {"factor": 2, "tucker": True}),
    ],
)
def test_starts_as_peft_draws(sides, options):
    """The range of each factor is PEFT's, to what the largest of so many numbers leaves open; one factor is 0."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    layer = pytest.importorskip("peft", reason="PEFT is the reference of its start").tuners.lokr.layer
    names = {"both": "decompose_both", "factor": "decompose_factor", "tucker": "use_effective_conv2d"}
    config = layer.LoKrConfig(r=16, alpha=16, **{names[name]: value for name, value in options.items()})
    torch.manual_seed(0)
    base = torch.nn.Conv2d(192, 128, sides) if sides else torch.nn.Linear(192, 128)
    theirs = (layer.Conv2d if sides else layer.Linear)(base, "x", config, r=16, alpha=16)
    kernel = {"kernel": jnp.zeros((*sides, 192, 128))}
    params = peft.lokr(16, (".*",), **options).init(jax.random.key(0), "x", kernel)
    wanted = {name: getattr(theirs, f"lokr_{theirs_name}") for name, theirs_name in FIRST.items()}
    wanted = {name: leaf["x"].detach().numpy() for name, leaf in wanted.items() if "x" in leaf}
    assert params.keys() == wanted.keys()
    for name, leaf in params.items():
        assert leaf.size == wanted[name].size
        np.testing.assert_allclose(np.abs(leaf).max(), np.abs(wanted[name]).max(), rtol=0.05 + 3 / leaf.size)
    assert not np.any(params.get("w1", params.get("w1_b")))


def test_what_would_be_wrong_raises():
    net, variables = base()
    for options, said in (({"rank": 0}, "rank=0"), ({"factor": 0}, "factor=0"), ({"alpha": 0.0}, r"alpha=0\.0")):
        with pytest.raises(ValueError, match=said):
            peft.lokr(**{"rank": 2, "where": WHERE} | options)
    odd = variables._replace(params={"embed": {"kernel": np.ones((2, 3, 4), np.float32)}})
    with pytest.raises(ValueError, match=r"'embed' is \(2, 3, 4\); LOKR takes dense layers"):
        peft.attach(net, odd, peft.lokr(2, ("embed",)), jax.random.key(0))
