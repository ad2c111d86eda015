"""The same networks in plain torch, and a function that copies jtl's weights to them.

Modules have the names of jtl's parameters, so that a weight's place follows from its path. Images are
[batch, channels, height, width].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jtl.params import flatten


class Mlp(nn.Module):
    """`jtl.backbones.mlp` on images of one channel."""

    def __init__(self, inputs: int, widths: Sequence[int]):
        super().__init__()
        self.depth, self.width = len(widths), widths[-1]
        for i, (below, width) in enumerate(zip((inputs, *widths), widths, strict=False), 1):
            self.add_module(f"stage{i}", nn.ModuleDict({"dense": nn.Linear(below, width)}))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for i in range(1, self.depth + 1):
            x = F.relu(self.get_submodule(f"stage{i}.dense")(x))
        return x


class Norm(nn.BatchNorm2d):
    """BatchNorm with batch statistics; its running statistics stay fixed if a task's passes must not move them."""

    follows = True

    def forward(self, input: Tensor) -> Tensor:
        if self.follows:
            return super().forward(input)
        return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)


class Conv4(nn.Module):
    """`jtl.backbones.conv4`, downsampled by stride."""

    def __init__(self, channels: int, filters: int):
        super().__init__()
        self.width = filters
        for i in range(1, 5):
            conv = nn.Conv2d(channels if i == 1 else filters, filters, 3, 2, 1, bias=False)
            self.add_module(f"stage{i}", nn.ModuleDict({"conv": conv, "norm": Norm(filters)}))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x = F.relu(self.get_submodule(f"stage{i}.norm")(self.get_submodule(f"stage{i}.conv")(x)))
        return x.mean((2, 3))


class ConvNorm(nn.Module):
    """A convolution without bias and its normalisation."""

    def __init__(self, below: int, width: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(below, width, kernel, stride, kernel // 2, bias=False)
        self.norm = Norm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, below: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(below, width, 3, stride, 1, bias=False), Norm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), Norm(width)
        self.shortcut = ConvNorm(below, width, 1, stride) if stride != 1 or below != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


class ResNet18(nn.Module):
    """`jtl.backbones.resnet18(stem="cifar")`."""

    def __init__(self):
        super().__init__()
        self.stem, self.width, below = ConvNorm(3, 64, 3, 1), 512, 64
        for i, width in enumerate((64, 128, 256, 512), 1):
            first = BasicBlock(below, width, 1 if i == 1 else 2)
            self.add_module(f"stage{i}", nn.ModuleDict({"block1": first, "block2": BasicBlock(width, width, 1)}))
            below = width

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        for i in range(1, 5):
            for block in ("block1", "block2"):
                x = self.get_submodule(f"stage{i}.{block}")(x)
        return x.mean((2, 3))


class Attention(nn.Module):
    """Fused query, key and value, and torch's own attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """The pre-norm transformer block."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = nn.ModuleDict({"up": nn.Linear(width, hidden), "down": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp["down"](F.gelu(self.mlp["up"](self.norm2(x))))


class ViT(nn.Module):
    """`jtl.backbones.vit.network` of patch 16; `pooled` is the class token."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int, image: int):
        super().__init__()
        self.depth, self.width = depth, width
        self.embed = nn.Conv2d(3, width, 16, 16)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (image // 16) ** 2 + 1, width))
        for i in range(1, depth + 1):
            self.add_module(f"block{i}", Block(width, heads, hidden))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.position
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"block{i}")(x)
        return self.norm(x[:, 0])


class Head(nn.Module):
    """`jtl.heads.mlp`, or without widths `jtl.heads.linear`."""

    def __init__(self, inputs: int, classes: int, widths: Sequence[int] = ()):
        super().__init__()
        self.depth = len(widths)
        for i, (below, width) in enumerate(zip((inputs, *widths), widths, strict=False), 1):
            self.add_module(f"hidden{i}", nn.Linear(below, width))
        self.out = nn.Linear((inputs, *widths)[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, self.depth + 1):
            x = F.relu(self.get_submodule(f"hidden{i}")(x))
        return self.out(x)


class Net(nn.Module):
    """A backbone with its heads."""

    def __init__(
        self, backbone: nn.Module, head: nn.Module, critic: nn.Module | None = None, second: nn.Module | None = None
    ):
        super().__init__()
        self.backbone, self.head, self.critic, self.second = backbone, head, critic, second

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def network(
    backbone: str, image: int, classes: int, critic: Sequence[int] | None, outer: bool = False, twice: bool = False
) -> Net:
    """A network by its name in `benchmarks.setups`; an outer critic reads features by classes; twice has two heads.

    Raises:
      ValueError: for a backbone without a torch twin here.
    """
    sizes = {"vit_ti": (192, 12, 3, 768), "vit_s": (384, 12, 6, 1536), "vit_b": (768, 12, 12, 3072)}
    if backbone == "mlp":
        body = Mlp(image * image, (512, 512))
    elif backbone == "conv4":
        body = Conv4(1, 64)
    elif backbone == "resnet18":
        body = ResNet18()
    elif backbone in sizes:
        body = ViT(*sizes[backbone], image)
    else:
        raise ValueError(f"backbone={backbone!r} has no torch twin; give mlp, conv4, resnet18 or one of {list(sizes)}")
    reads = body.width * (classes if outer else 1)
    second = Head(body.width, classes) if twice else None
    return Net(body, Head(body.width, classes), None if critic is None else Head(reads, 1, critic), second)


def carry(params: Any, stats: Any, net: nn.Module) -> None:
    """Copies jtl's weights and running statistics into a torch network.

    Raises:
      ValueError: if a weight of one side has no place on the other.
    """
    source = {path.replace("/", "."): np.asarray(leaf) for path, leaf in flatten(params).items()}
    source |= {path.replace("/", "."): np.asarray(leaf) for path, leaf in flatten(stats).items()}
    target = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(torch.from_numpy(_take(source, name).copy()))
    if source:
        raise ValueError(f"jtl's weights have no place in the torch network: {sorted(source)}")


def _take(source: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Removes the value of a torch tensor from jtl's weights and returns it."""
    place, _, leaf = name.rpartition(".")
    if place.endswith("qkv"):
        parts = [_take(source, f"{place[:-3]}{part}.{leaf}") for part in ("query", "key", "value")]
        return np.concatenate(parts)
    renamed = {"running_mean": ("mean",), "running_var": ("var",), "weight": ("kernel", "scale")}.get(leaf, (leaf,))
    paths = [f"{place}.{other}" if place else other for other in renamed]
    found = next((path for path in paths if path in source), None)
    if found is None:
        raise ValueError(f"the torch network's {name!r} has no weight of jtl's; left are {sorted(source)}")
    value = source.pop(found)
    if found.endswith("kernel"):
        return value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
    return value


def images(batch: Mapping[str, Any], device: str, layout: torch.memory_format) -> dict[str, Any]:
    """Converts a batch of jtl for torch: channels first, labels int64."""

    def convert(name, value):
        if isinstance(value, Mapping):
            return {inner: convert(inner, part) for inner, part in value.items()}
        if name == "y":
            return torch.from_numpy(np.asarray(value)).long().to(device)
        x = torch.from_numpy(np.moveaxis(np.asarray(value), -1, -3).copy()).to(device)
        return x.contiguous(memory_format=layout) if x.ndim == 4 else x

    return {name: convert(name, value) for name, value in batch.items()}
