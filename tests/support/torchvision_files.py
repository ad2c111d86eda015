"""The checks of a family that is read by torchvision's names."""

from conv_parity import check as parity
from conv_parity import state_write
from loading import renamed, same_bits

from jtl.pretrained.load import load


def check(net, arch, x, folder):
    """Parity with `net`, and its file's tensors come back bit by bit; gives what was loaded."""
    state = {n: t.numpy().copy() for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    loaded = parity(
        net,
        state_write,
        lambda path, dtype: load(f"{path}.pth", arch=arch, dtype=dtype),
        lambda net, x: net.found(x),
        x,
        folder,
    )
    assert loaded.naming == "torchvision"
    same_bits(renamed(loaded, "torchvision"), state)
    return loaded
