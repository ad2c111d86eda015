"""Convolutional networks in plain torch under torchvision's names: references."""

from typing import Any

from torch_resnets import randomise


def vgg(depths, widths, hidden: int, batch_norm: bool, classes: int = 5) -> Any:
    """torchvision's VGG; `stages` are its layers by the stage they end."""
    from torch import nn

    layers, before, ends = [], 3, []
    for count, width in zip(depths, widths, strict=True):
        for _ in range(count):
            layers.append(nn.Conv2d(before, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            before = width
        layers.append(nn.MaxPool2d(2, 2))
        ends.append(len(layers) - 1)
    linear = [nn.Linear(before * 49, hidden), nn.ReLU(True), nn.Dropout(0.0)]
    linear += [nn.Linear(hidden, hidden), nn.ReLU(True), nn.Dropout(0.0), nn.Linear(hidden, classes)]
    return _flattened(layers, 7, linear, ends)


def alexnet(widths, hidden: int, classes: int = 5) -> Any:
    """torchvision's AlexNet."""
    from torch import nn

    one, two, three, four, five = widths
    layers = [
        *(nn.Conv2d(3, one, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(one, two, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(two, three, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(three, four, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(four, five, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2)),
    ]
    linear = [nn.Dropout(0.0), nn.Linear(five * 36, hidden), nn.ReLU(True)]
    linear += [nn.Dropout(0.0), nn.Linear(hidden, hidden), nn.ReLU(True), nn.Linear(hidden, classes)]
    return _flattened(layers, 6, linear, (2, 5, 12))


def _flattened(layers, side: int, linear, ends) -> Any:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(*layers)
            self.avgpool = nn.AdaptiveAvgPool2d((side, side))
            self.classifier = nn.Sequential(*linear)

        def found(self, x):
            found = {}
            for i, layer in enumerate(self.features):
                x = layer(x)
                if i in ends:
                    found[f"stage{len(found) + 1}"] = x
            pooled = self.classifier[:-1](torch.flatten(self.avgpool(x), 1))
            return found | {"last": x, "pooled": pooled, "logits": self.classifier[-1](pooled)}

    return randomise(Net()).eval()


def _conv_norm(before, after, kernel, stride, activation, eps, groups=1) -> Any:
    from torch import nn

    conv = nn.Conv2d(before, after, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after, eps=eps), *([activation()] if activation else []))


def inverted(before, inner, after, kernel, stride, squeezed, activation, gates, eps) -> Any:
    """torchvision's inverted residual block of MobileNetV3 and EfficientNet; `gates` are of its squeeze."""
    import torch
    from torch import nn

    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc1 = nn.Conv2d(inner, squeezed, 1)
            self.fc2 = nn.Conv2d(squeezed, inner, 1)
            self.activation, self.scale_activation = gates[0](), gates[1]()

        def forward(self, x):
            return x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [_conv_norm(before, inner, 1, 1, activation, eps)] if inner != before else []
            layers.append(_conv_norm(inner, inner, kernel, stride, activation, eps, groups=inner))
            layers += [Squeeze()] if squeezed else []
            layers.append(_conv_norm(inner, after, 1, 1, None, eps))
            self.block = nn.Sequential(*layers)

        def forward(self, x):
            y = self.block(x)
            return x + y if stride == 1 and before == after else y

    assert torch.__version__
    return Block()


def mobilenet_v3(size: str, width: float, hidden: int, momentum: float, classes: int = 5) -> Any:
    """torchvision's MobileNetV3; its table reads in, kernel, inner, out, squeeze, activation, stride, as there."""
    import torch
    from torch import nn

    class HardSigmoid(nn.Module):
        """`relu6(x + 3) / 6`. The derivative of torch's own is a float32 sixth even in float64, 3e-8 off."""

        def forward(self, x: Any) -> Any:
            return nn.functional.relu6(x + 3) / 6

    tables = {
        "large": "16 3 16 16 - RE 1, 16 3 64 24 - RE 2, 24 3 72 24 - RE 1, 24 5 72 40 + RE 2, 40 5 120 40 + RE 1, "
        "40 5 120 40 + RE 1, 40 3 240 80 - HS 2, 80 3 200 80 - HS 1, 80 3 184 80 - HS 1, 80 3 184 80 - HS 1, "
        "80 3 480 112 + HS 1, 112 3 672 112 + HS 1, 112 5 672 160 + HS 2, 160 5 960 160 + HS 1, 160 5 960 160 + HS 1",
        "small": "16 3 16 16 + RE 2, 16 3 72 24 - RE 2, 24 3 88 24 - RE 1, 24 5 96 40 + HS 2, 40 5 240 40 + HS 1, "
        "40 5 240 40 + HS 1, 40 5 120 48 + HS 1, 48 5 144 48 + HS 1, 48 5 288 96 + HS 2, 96 5 576 96 + HS 1, "
        "96 5 576 96 + HS 1",
    }

    def divisible(v):
        new = max(8, int(v + 4) // 8 * 8)
        return new + 8 if new < 0.9 * v else new

    layers, strides = [_conv_norm(3, divisible(16 * width), 3, 2, nn.Hardswish, 1e-3)], [2]
    for row in tables[size].split(", "):
        before, kernel, inner, after, squeezed, activation, stride = row.split()
        before, inner, after = (divisible(int(c) * width) for c in (before, inner, after))
        kind = {"RE": nn.ReLU, "HS": nn.Hardswish}[activation]
        hidden_of = divisible(inner // 4) if squeezed == "+" else 0
        gates = (nn.ReLU, HardSigmoid)
        layers.append(inverted(before, inner, after, int(kernel), int(stride), hidden_of, kind, gates, 1e-3))
        strides.append(int(stride))
    layers.append(_conv_norm(after, 6 * after, 1, 1, nn.Hardswish, 1e-3))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(*layers)
            self.classifier = nn.Sequential(
                nn.Linear(6 * after, hidden), nn.Hardswish(), nn.Dropout(0.0), nn.Linear(hidden, classes)
            )

        def found(self, x):
            maps = []
            for layer, stride in zip(self.features[:-1], strides, strict=True):
                x = layer(x)
                maps = [*maps, x] if stride == 2 else [*maps[:-1], x]
            found = {f"stage{i}": m for i, m in enumerate(maps, 1)}
            last = self.features[-1](x)
            pooled = self.classifier[:-1](torch.flatten(nn.functional.adaptive_avg_pool2d(last, 1), 1))
            return found | {"last": last, "pooled": pooled, "logits": self.classifier[-1](pooled)}

    for module in layers:
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = momentum
    return randomise(Net()).eval()


def fused(before, inner, after, stride, eps) -> Any:
    """torchvision's fused block of EfficientNetV2: one convolution where `inner` is `before`."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            first = _conv_norm(before, after if inner == before else inner, 3, stride, nn.SiLU, eps)
            self.block = nn.Sequential(first, *([] if inner == before else [_conv_norm(inner, after, 1, 1, None, eps)]))

        def forward(self, x):
            y = self.block(x)
            return x + y if stride == 1 and before == after else y

    return Block()


def efficientnet(stages, stem: int, top: int, eps: float, classes: int = 5, fuse: int = 0) -> Any:
    """torchvision's EfficientNet; stages are (expansion, kernel, stride, out, repeats), scaled already.

    `fuse` of them, the first, are of V2's blocks.
    """
    import torch
    from torch import nn

    groups, before = [], stem
    for expansion, kernel, stride, after, repeats in stages:
        blocks = []
        for i in range(repeats):
            squeezed, then = max(1, before // 4), stride if i == 0 else 1
            if len(groups) < fuse:
                blocks.append(fused(before, before * expansion, after, then, eps))
            else:
                args = (before, before * expansion, after, kernel, then, squeezed)
                blocks.append(inverted(*args, nn.SiLU, (nn.SiLU, nn.Sigmoid), eps))
            before = after
        groups.append(nn.Sequential(*blocks))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            ends = (_conv_norm(3, stem, 3, 2, nn.SiLU, eps), _conv_norm(before, top, 1, 1, nn.SiLU, eps))
            self.features = nn.Sequential(ends[0], *groups, ends[1])
            self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(top, classes))

        def found(self, x):
            maps = [self.features[0](x)]
            for group, (_, _, stride, _, _) in zip(groups, stages, strict=True):
                maps = [*maps, group(maps[-1])] if stride == 2 else [*maps[:-1], group(maps[-1])]
            last = self.features[-1](maps[-1])
            pooled = torch.flatten(nn.functional.adaptive_avg_pool2d(last, 1), 1)
            stages_found = {f"stage{i}": m for i, m in enumerate(maps, 1)}
            return stages_found | {"last": last, "pooled": pooled, "logits": self.classifier(pooled)}

    return randomise(Net()).eval()


def densenet(growth: int, blocks, stem: int, bottleneck: int = 4, classes: int = 5) -> Any:
    """torchvision's DenseNet."""
    from collections import OrderedDict

    import torch
    from torch import nn
    from torch.nn import functional as F

    class Layer(nn.Module):
        def __init__(self, before):
            super().__init__()
            self.norm1 = nn.BatchNorm2d(before)
            self.conv1 = nn.Conv2d(before, bottleneck * growth, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(bottleneck * growth)
            self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)

        def forward(self, x):
            y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
            return torch.cat([x, y], 1)

    parts = OrderedDict(
        conv0=nn.Conv2d(3, stem, 7, 2, 3, bias=False),
        norm0=nn.BatchNorm2d(stem),
        relu0=nn.ReLU(),
        pool0=nn.MaxPool2d(3, 2, 1),
    )
    width = stem
    for number, layers in enumerate(blocks, 1):
        stack = OrderedDict((f"denselayer{i + 1}", Layer(width + i * growth)) for i in range(layers))
        parts[f"denseblock{number}"] = nn.Sequential(stack)
        width += layers * growth
        if number < len(blocks):
            parts[f"transition{number}"] = nn.Sequential(
                OrderedDict(
                    norm=nn.BatchNorm2d(width),
                    relu=nn.ReLU(),
                    conv=nn.Conv2d(width, width // 2, 1, bias=False),
                    pool=nn.AvgPool2d(2, 2),
                )
            )
            width //= 2
    parts["norm5"] = nn.BatchNorm2d(width)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(parts)
            self.classifier = nn.Linear(width, classes)

        def found(self, x):
            found = {}
            for name, layer in self.features.named_children():
                x = layer(x)
                if name.startswith("denseblock"):
                    found[f"stage{name[-1]}"] = x
            last = F.relu(x)
            pooled = last.mean((2, 3))
            return found | {"last": last, "pooled": pooled, "logits": self.classifier(pooled)}

    return randomise(Net()).eval()


def inception_v3(width: float, left_out: str = "", classes: int = 5) -> Any:
    """torchvision's Inception3 with `width` times its channels, without the second classifier and the blocks left out.

    A branch reads name, channels, kernel and, with a stride of 2, "/2"; "|" parts branches, "&" what sees one map.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    double = "branch3x3dbl_1 64 1, branch3x3dbl_2 96 3, branch3x3dbl_3 96 3"

    def seven(c):
        return (
            f"branch1x1 192 1 | branch7x7_1 {c} 1, branch7x7_2 {c} 1x7, branch7x7_3 192 7x1 | branch7x7dbl_1 {c} 1, "
            f"branch7x7dbl_2 {c} 7x1, branch7x7dbl_3 {c} 1x7, branch7x7dbl_4 {c} 7x1, branch7x7dbl_5 192 1x7 | "
            "mean, branch_pool 192 1"
        )

    def five(c):
        return f"branch1x1 64 1 | branch5x5_1 48 1, branch5x5_2 64 5 | {double} | mean, branch_pool {c} 1"

    wide = (
        "branch1x1 320 1 | branch3x3_1 384 1, branch3x3_2a 384 1x3 & branch3x3_2b 384 3x1 | branch3x3dbl_1 448 1, "
        "branch3x3dbl_2 384 3, branch3x3dbl_3a 384 1x3 & branch3x3dbl_3b 384 3x1 | mean, branch_pool 192 1"
    )
    blocks = {
        **{"5b": five(32), "5c": five(64), "5d": five(64), "6a": f"branch3x3 384 3 /2 | {double} /2 | max"},
        **{"6b": seven(128), "6c": seven(160), "6d": seven(160), "6e": seven(192)},
        "7a": "branch3x3_1 192 1, branch3x3_2 320 3 /2 | branch7x7x3_1 192 1, branch7x7x3_2 192 1x7, "
        "branch7x7x3_3 192 7x1, branch7x7x3_4 192 3 /2 | max",
        **{"7b": wide, "7c": wide},
    }

    class Conv(nn.Module):
        def __init__(self, before, after, kernel, stride=1, padding=None):
            super().__init__()
            kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
            padding = tuple(k // 2 for k in kernel) if padding is None else padding
            self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
            self.bn = nn.BatchNorm2d(after, eps=1e-3)

        def forward(self, x):
            return F.relu(self.bn(self.conv(x)))

    class Mixed(nn.Module):
        def __init__(self, before, text):
            super().__init__()
            self.branches, self.out = [], 0
            for branch in text.split(" | "):
                steps, channels = [], before
                for step in branch.split(", "):
                    steps.append([part.split()[0] for part in step.split(" & ")])
                    made = [self.conv(channels, *part.split()) for part in step.split(" & ") if " " in part]
                    channels = sum(made) if made else channels
                self.branches.append(steps)
                self.out += channels

        def conv(self, before, name, channels, kernel, stride=""):
            sides = tuple(map(int, kernel.split("x"))) * (1 if "x" in kernel else 2)
            after = round(int(channels) * width)
            self.add_module(name, Conv(before, after, sides, *((2, 0) if stride else ())))
            return after

        def forward(self, x):
            outputs = []
            for steps in self.branches:
                y = x
                for names in steps:
                    if names == ["mean"]:
                        y = F.avg_pool2d(y, 3, stride=1, padding=1)
                    elif names == ["max"]:
                        y = F.max_pool2d(y, 3, stride=2)
                    else:
                        y = torch.cat([getattr(self, name)(y) for name in names], 1)
                outputs.append(y)
            return torch.cat(outputs, 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            one, two, three, four = (round(c * width) for c in (32, 64, 80, 192))
            self.Conv2d_1a_3x3 = Conv(3, one, 3, 2, 0)
            self.Conv2d_2a_3x3 = Conv(one, one, 3, 1, 0)
            self.Conv2d_2b_3x3 = Conv(one, two, 3)
            self.Conv2d_3b_1x1 = Conv(two, three, 1)
            self.Conv2d_4a_3x3 = Conv(three, four, 3, 1, 0)
            before = four
            for name in left_out.split():
                del blocks[name]
            for name, text in blocks.items():
                mixed = Mixed(before, text)
                before = mixed.out
                self.add_module(f"Mixed_{name}", mixed)
            self.fc = nn.Linear(before, classes)

        def found(self, x):
            found = {"stage1": self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))}
            x = self.Conv2d_3b_1x1(F.max_pool2d(found["stage1"], 3, stride=2))
            found["stage2"] = self.Conv2d_4a_3x3(x)
            x = F.max_pool2d(found["stage2"], 3, stride=2)
            for name in blocks:
                x = getattr(self, f"Mixed_{name}")(x)
                found[f"stage{int(name[0]) - 2}"] = x
            pooled = x.mean((2, 3))
            return found | {"last": x, "pooled": pooled, "logits": self.fc(pooled)}

    return randomise(Net()).eval()
