"""ResNeXt, wide ResNets and those with other stems and shortcuts, against small ones of torch on randomised weights."""

import pytest
from conv_parity import check, state_write
from loading import images, renamed, same_bits

from jtl.pretrained.load import load
from jtl.pretrained.save import save

# Odd maps before each halving; on a CPU a group is a convolution of its own, or several are.
CASES = {
    "grouped": ({"depths": (1, 1), "width": 16, "groups": 4, "width_per_group": 64}, (33, 40)),
    "pooled shortcuts": (
        {"depths": (1, 1), "groups": 4, "width_per_group": 32, "stem_width": 6, "avg_down": True},
        (37, 45),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_is_torchs_network(case, tmp_path):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    from torch_resnets import imagenet_resnet

    options, size = CASES[case]
    arch = {"model_type": "resnet_variant", **options, "depths": list(options["depths"])}
    arch["embedding_size"] = arch.pop("width", 8)
    net = imagenet_resnet(**options)
    state = {n: t.numpy().copy() for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    loaded = check(
        net,
        state_write,
        lambda path, dtype: load(f"{path}.pth", arch=arch, dtype=dtype),
        lambda net, x: net.found(x),
        images(size),
        tmp_path,
    )
    timm_alone = "stem_width" in options
    assert loaded.naming == ("timm" if timm_alone else "torchvision")
    same_bits(renamed(loaded, "timm"), state)
    formats = ["timm", "jtl"] if timm_alone else ["timm", "torchvision", "jtl"]
    with pytest.raises(ValueError, match=f"transformers has no network.*{formats}".replace("[", r"\[")):
        save(tmp_path / "out", loaded)
