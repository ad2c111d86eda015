"""`jtl.load(in_chans=)`: timm's rule, and what it is for."""

import jax
import made
import ml_dtypes
import numpy as np
import pytest

from jtl.backbones.registry import FAMILIES
from jtl.methods.finetune.finetune import predictor
from jtl.params import flatten
from jtl.pretrained.channels import repeat_channels
from jtl.pretrained.load import load
from jtl.pretrained.save import save

FIRST = {"vit": "backbone/embed/kernel", "resnet": "backbone/stem/conv/kernel"}


@pytest.fixture(scope="module", params=["vit", "resnet"])
def folder(request, tmp_path_factory):
    config = {"vit": made.VIT, "resnet": made.RESNET}[request.param]
    return made.folder(tmp_path_factory.mktemp(request.param), config)


def logits(loaded, x):
    return np.asarray(jax.jit(predictor(loaded.network))(loaded.variables, x))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7])
def test_the_first_kernel_by_the_formula(folder, channels):
    before, after = load(folder), load(folder, in_chans=channels)
    old, new = (dict(flatten(loaded.variables.params)) for loaded in (before, after))
    first = FIRST[before.config.model_type]
    kernel = old.pop(first)
    if channels == 1:
        wanted = kernel[..., :1, :] + kernel[..., 1:2, :] + kernel[..., 2:, :]
    else:
        wanted = np.stack([kernel[..., c % 3, :] * (3 / channels) for c in range(channels)], -2)
    # Sums of three and one product, in float32 there and here.
    np.testing.assert_allclose(new.pop(first), wanted, rtol=3e-7)
    jax.tree.map(np.testing.assert_array_equal, new, old)
    assert after.config.num_channels == channels


def test_grey_images_and_doubled_ones_give_what_they_gave(folder):
    """To 1e-5: a sum of kernels in place of a sum of products."""
    grey = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    known = logits(load(folder), np.repeat(grey, 3, -1))
    for channels in (1, 6):
        new = logits(load(folder, in_chans=channels), np.repeat(grey, channels, -1))
        np.testing.assert_allclose(new, known, rtol=1e-5, atol=1e-5 * np.abs(known).max())


def test_it_is_saved_and_loaded(folder, tmp_path):
    grey = load(folder, in_chans=1)
    for format in ("hf", "jtl"):
        save(tmp_path / format, grey, format=format)
        jax.tree.map(np.testing.assert_array_equal, load(tmp_path / format).variables, grey.variables)


def test_a_first_kernel_that_is_drawn_anew(folder):
    pattern = "backbone/(embed|stem)/.*"
    kernel = load(folder, in_chans=5, reinit=(pattern,)).variables.params["backbone"]
    kernel = kernel["embed"] if "embed" in kernel else kernel["stem"]["conv"]
    assert kernel["kernel"].shape[-2] == 5
    assert not np.isin(load(folder, in_chans=5).variables.params["head"]["out"]["bias"], 0).any()


def test_the_preprocessing_follows(tmp_path):
    arch = {"architecture": "resnet18", "model_args": {"layers": [1]}}
    config = FAMILIES["resnet"].named("resnet18", arch["model_args"]) or {}
    loaded = load(made.folder(tmp_path, config, "torchvision"), arch=arch, in_chans=1)
    images = loaded.preprocessing
    assert images is not None
    np.testing.assert_allclose(images.mean, [(0.485 + 0.456 + 0.406) / 3])
    np.testing.assert_allclose(images.std, [(0.229 + 0.224 + 0.225) / 3])
    # And that of a network which was made for grey images.
    arch["model_args"]["in_chans"] = 1
    made.folder(tmp_path / "grey", {**config, "num_channels": 1}, "torchvision")
    assert load(tmp_path / "grey", arch=arch).preprocessing == images


def test_half_precision_is_summed_in_single():
    kernel = np.asarray([[[256.0]], [[1.0]], [[1.0]]], np.float32).reshape(1, 1, 3, 1)
    assert repeat_channels(kernel.astype(ml_dtypes.bfloat16), 1).item() == 258.0
    assert repeat_channels(kernel.astype(ml_dtypes.bfloat16), 1).dtype == ml_dtypes.bfloat16


def test_what_has_no_channels_to_change(folder, tmp_path):
    for channels in (0, -1, 1 << 20, True):
        with pytest.raises(ValueError, match=r"in_chans=.*give a whole number from 1"):
            load(folder, in_chans=channels)
    made.folder(tmp_path, {"model_type": "cifar_resnet", "depth": 8}, "akamaster")
    with pytest.raises(ValueError, match="a cifar_resnet takes images of 3 channels only"):
        load(tmp_path, in_chans=1)
