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
