"""DenseNet against a small network of torch under torchvision's names, on randomised weights."""

import jax
import numpy as np
import pytest
import torchvision_files
from loading import images

from jtl.pretrained.load import load

CASES = {"two blocks": ((2, 3), 4, 6, (32, 40)), "three, odd": ((1, 2, 1), 3, 5, (45, 39))}


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("case", CASES)
def test_is_torchvisions_densenet(case, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    from torch_convnets import densenet

    blocks, growth, stem, size = CASES[case]
    arch = {
        "model_type": "densenet",
        "growth_rate": growth,
        "depths": list(blocks),
        "embedding_size": stem,
        "bottleneck_ratio": 2,
    }
    net = densenet(growth, blocks, stem, 2)
    published = {}
    for name, tensor in net.state_dict().items():
        # The published files were made when "norm1" of a layer could be called "norm.1".
        for part in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        published[name] = tensor.clone()
    torch.save(published, tmp_path / "published.pth")
    loaded = torchvision_files.check(net, arch, images(size), tmp_path)
    older = load(tmp_path / "published.pth", arch=arch)
    jax.tree.map(np.testing.assert_array_equal, older.variables, loaded.variables)
