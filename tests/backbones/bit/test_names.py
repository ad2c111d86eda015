"""BiT against transformers' on randomised weights; timm's, and the original files, are in test_other_libraries.py."""

import jax
import numpy as np
import pytest
from loading import images

from jtl import backbones
from jtl.nn.layers import standardised
from jtl.pretrained.load import load

CASES = {
    "two stages": ({}, (32, 29)),
    "groups of three, odd": ({"depths": (1, 2), "widths": (96, 192), "groups": 3, "stem": 24}, (51, 45)),
}


@pytest.fixture(params=CASES)
def made(request):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    pytest.importorskip("transformers")
    from hf_convnets import hf_bit

    options, size = CASES[request.param]
    return hf_bit(**options), images(size)


def theirs(net, x):
    out = net.bit(x, output_hidden_states=True)
    found = {f"stage{i}": h for i, h in enumerate(out.hidden_states) if i}
    pooled = out.pooler_output.flatten(1)
    return found | {"last": out.last_hidden_state, "pooled": pooled, "logits": net.classifier(pooled)}


def test_is_transformers_bit(made, tmp_path):
    from conv_parity import check, hf_write

    net, x = made
    loaded = check(net, hf_write, lambda p, dtype: load(p, dtype=dtype), theirs, x, tmp_path)
    assert not loaded.variables.stats  # nothing depends on the batch


def test_is_written_as_it_was_read(made, tmp_path):
    from conv_parity import written_as_read

    written_as_read(*made, tmp_path)


def test_a_scale_of_the_kernels_changes_nothing(key):
    """Nor does a constant: each output channel's kernel is used at mean 0 and variance 1."""
    kernel = 3 + 5 * jax.random.normal(key, (3, 3, 4, 6))
    used = np.asarray(standardised(kernel, 1e-8))
    np.testing.assert_allclose(used.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(used.var((0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(used, standardised(7 * kernel - 2, 1e-8), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: backbones.bit(18), "depth=18: give one of"),
        (lambda: backbones.bit([(0, 256)]), "at least one block"),
        (lambda: backbones.bit(50, 0), "factor=0"),
        (lambda: backbones.bit([(1, 96)], groups=5), "a map of 64 channels cannot be cut into groups=5"),
        (lambda: backbones.bit(50, drop_path=1.0), "drop_path=1.0"),
    ],
)
def test_numbers_that_make_no_network_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
