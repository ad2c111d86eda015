"""VGG and AlexNet against small networks of torch under torchvision's names, on randomised weights."""

import pytest
import torchvision_files
from loading import images

from jtl.pretrained.save import save

VGGS = {
    # The map is 1x1 (spread over 7x7 windows), and 8x9 (windows that overlap).
    "plain": ({"depths": (1, 2, 1), "widths": (4, 6, 5), "hidden": 12, "batch_norm": False}, (8, 13)),
    "normalised, odd": ({"depths": (2, 1), "widths": (4, 6), "hidden": 9, "batch_norm": True}, (33, 37)),
}


@pytest.mark.parametrize("case", VGGS)
def test_is_torchvisions_vgg(case, tmp_path):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    from torch_convnets import vgg

    options, size = VGGS[case]
    arch = {
        "model_type": "vgg",
        "depths": list(options["depths"]),
        "hidden_sizes": list(options["widths"]),
        "intermediate_size": options["hidden"],
        "batch_norm": options["batch_norm"],
        "dropout": 0.0,
    }
    loaded = torchvision_files.check(vgg(**options), arch, images(size), tmp_path)
    with pytest.raises(ValueError, match="transformers has no network"):
        save(tmp_path / "out", loaded)


ALEXNETS = {"even": ((4, 6, 8, 6, 5), 12, (64, 96)), "odd": ((3, 4, 5, 6, 7), 9, (63, 223))}


@pytest.mark.parametrize("case", ALEXNETS)
def test_is_torchvisions_alexnet(case, tmp_path):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    from torch_convnets import alexnet

    widths, hidden, size = ALEXNETS[case]
    arch = {"model_type": "alexnet", "hidden_sizes": list(widths), "intermediate_size": hidden, "dropout": 0.0}
    torchvision_files.check(alexnet(widths, hidden), arch, images(size), tmp_path)
