"""ResNets in plain torch under the names of the published files: references for tests."""

from typing import Any


def randomise(net: Any) -> Any:
    """Every tensor at random: a fresh network has gammas of 1 and betas of 0, which would hide a mistake."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(noise + 0.5)
            else:
                fan = max(tensor[0].numel() if tensor.ndim > 1 else 1, 1)
                tensor.copy_((noise - 0.5) * (3.0 / fan**0.5))
        else:
            tensor.fill_(7)
    return net


def cifar_resnet(depth: int, width: int = 16, classes: int = 10) -> Any:
    """He et al.'s CIFAR network with shortcuts of option A, named as akamaster names it."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(after)
            self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(after)
            self.stride, self.pad = stride, (after - before) // 2

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
            return F.relu(y + short)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            before = width
            for stage in (1, 2, 3):
                after, blocks = width * 2 ** (stage - 1), []
                for i in range((depth - 2) // 6):
                    blocks.append(Block(before, after, 2 if stage > 1 and i == 0 else 1))
                    before = after
                setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            self.linear = nn.Linear(before, classes)

        def features(self, x):
            x = F.relu(self.bn1(self.conv1(x)))
            found = {}
            for stage in (1, 2, 3):
                x = found[f"stage{stage}"] = getattr(self, f"layer{stage}")(x)
            return found | {"pooled": x.mean((2, 3))}

        def forward(self, x):
            return self.linear(self.features(x)["pooled"])

    torch.manual_seed(0)
    return Net()


def imagenet_resnet(
    depths: tuple,
    *,
    width: int = 8,
    bottleneck: bool = True,
    groups: int = 1,
    width_per_group: int = 64,
    stem_width: int | None = None,
    avg_down: bool = False,
    classes: int = 5,
) -> Any:
    """ResNets of torchvision and timm, named as they are there; `found` gives all features."""
    from torch import nn
    from torch.nn import functional as F

    def conv(before, after, kernel, stride=1, groups=1):
        return nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)

    class Block(nn.Module):
        def __init__(self, before, width, stride):
            super().__init__()
            inner, self.out = int(width * width_per_group / 64) * groups, width * (4 if bottleneck else 1)
            if bottleneck:
                layers = [(before, inner, 1, 1, 1), (inner, inner, 3, stride, groups), (inner, self.out, 1, 1, 1)]
            else:
                layers = [(before, width, 3, stride, 1), (width, width, 3, 1, 1)]
            self.count = len(layers)
            for i, layer in enumerate(layers, 1):
                setattr(self, f"conv{i}", conv(*layer))
                setattr(self, f"bn{i}", nn.BatchNorm2d(layer[1]))
            self.downsample = nn.Identity()
            if stride > 1 or before != self.out:
                parts = [conv(before, self.out, 1, 1 if avg_down else stride), nn.BatchNorm2d(self.out)]
                pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
                self.downsample = nn.Sequential(*([pool if stride > 1 else nn.Identity()] if avg_down else []), *parts)

        def forward(self, x):
            y = x
            for i in range(1, self.count + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(F.relu(y) if i > 1 else y))
            return F.relu(y + self.downsample(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            before = width if stem_width is None else 2 * stem_width
            if stem_width is None:
                self.conv1 = conv(3, before, 7, 2)
            else:
                parts, last = [], 3
                for stride in (2, 1):
                    parts += [conv(last, stem_width, 3, stride), nn.BatchNorm2d(stem_width), nn.ReLU()]
                    last = stem_width
                self.conv1 = nn.Sequential(*parts, conv(last, before, 3))
            self.bn1 = nn.BatchNorm2d(before)
            self.stages = [f"layer{i}" for i in range(1, len(depths) + 1)]
            for i, (name, count) in enumerate(zip(self.stages, depths, strict=True)):
                blocks = []
                for j in range(count):
                    blocks.append(Block(before, width * 2**i, 2 if i > 0 and j == 0 else 1))
                    before = blocks[-1].out
                setattr(self, name, nn.Sequential(*blocks))
            self.fc = nn.Linear(before, classes)

        def found(self, x):
            x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            found = {}
            for i, name in enumerate(self.stages, 1):
                x = found[f"stage{i}"] = getattr(self, name)(x)
            pooled = x.mean((2, 3))
            return found | {"last": x, "pooled": pooled, "logits": self.fc(pooled)}

    return randomise(Net()).eval()
