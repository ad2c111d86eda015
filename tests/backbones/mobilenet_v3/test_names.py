"""MobileNetV3 against networks of torch under torchvision's names, on randomised weights."""

import pytest
from loading import images

pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")

import torchvision_files
from torch_convnets import mobilenet_v3

CASES = {"small": (0.25, 6, (64, 64)), "large, odd": (0.2, 9, (65, 71))}


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("case", CASES)
def test_is_torchvisions_mobilenet_v3(case, tmp_path):
    width, hidden, side = CASES[case]
    size = case.partition(",")[0]
    arch = {"model_type": "mobilenet_v3", "size": size, "depth_multiplier": width, "intermediate_size": hidden}
    # Many pixels for batch statistics, which 11 and 15 blocks divide by one after another.
    torchvision_files.check(mobilenet_v3(size, width, hidden, 0.01), arch, images(side, 8), tmp_path)
