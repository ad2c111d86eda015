"""The decoder of maps against torch's layers."""

import jax
import numpy as np
import pytest

from jtl.nn.decoder import map_decoder
from jtl.reads import whole


def test_it_is_torchs_layers(key):
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    maps = {"fine": draw.normal(size=(2, 8, 6, 3)), "coarse": draw.normal(size=(2, 4, 3, 5))}
    maps = {name: value.astype(np.float32) for name, value in maps.items()}
    head = map_decoder(4, 7, reads=whole("fine", "coarse"))
    shapes = jax.eval_shape(head.init, key, maps)
    variables = jax.tree.map(lambda a: draw.normal(size=a.shape).astype(np.float32), shapes)
    out, _ = head.apply(variables, maps, train=False)
    params = variables.params

    def layer(x, found, padding=0):
        kernel = torch.tensor(found["kernel"].transpose(3, 2, 0, 1).copy())
        return torch.nn.functional.conv2d(x, kernel, torch.tensor(found["bias"]), padding=padding)

    first = {name: torch.tensor(value.transpose(0, 3, 1, 2).copy()) for name, value in maps.items()}
    fine, coarse = (layer(first[name], params["fused"][f"lateral_{name}"]) for name in ("fine", "coarse"))
    large = torch.nn.functional.interpolate(coarse, size=(8, 6), mode="bilinear", align_corners=False)
    smooth = layer(fine + large, params["fused"]["smooth"], padding=1).relu()
    theirs = layer(smooth, params["out"]).permute(0, 2, 3, 1)
    np.testing.assert_allclose(out, theirs, rtol=1e-4, atol=1e-4)


def test_what_is_no_map_or_no_size_is_named(key):
    with pytest.raises(ValueError, match=r"feature 'map' of shape \(2, 5, 3\) is no map"):
        map_decoder(2).init(key, np.zeros((2, 5, 3), np.float32))
    with pytest.raises(ValueError, match="classes=0, width=64"):
        map_decoder(0)
