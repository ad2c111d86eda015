"""torchvision and timm in a process of their own: builds small networks of theirs, and loads files that jtl wrote.

Neither has a build for torch on a CPU: torchvision's compiled operators do not load, which its plain networks do not
need, and the registrations of their shapes are passed over. In the tests' own process they would change what
transformers takes for installed. Reads one request a line, {"do": ..., ...}, and answers in one line.
"""

import json
import sys
import traceback
from functools import partial

import numpy as np
import torch

_register = torch.library.register_fake
torch.library.register_fake = lambda name, *a, **k: (
    (lambda f: f) if "torchvision::" in name else _register(name, *a, **k)
)

import timm
import torchvision
from torch_resnets import randomise


def scaled_inception(factor):
    """torchvision's, all of whose convolutions are made narrower."""
    from torchvision.models import inception as parts

    def narrow(before, after, **options):
        return parts.BasicConv2d(before if before == 3 else round(before * factor), round(after * factor), **options)

    kinds = (parts.InceptionA, parts.InceptionB, parts.InceptionC, parts.InceptionD, parts.InceptionE)
    blocks = [narrow, *(partial(kind, conv_block=narrow) for kind in kinds), None]
    net = torchvision.models.Inception3(5, aux_logits=False, init_weights=False, inception_blocks=blocks)
    net.fc = torch.nn.Linear(round(2048 * factor), 5)
    return net


def small_vgg():
    """torchvision's, with narrow dense layers in place of its own, for which there is no option."""
    from torchvision.models import vgg

    with torch.device("meta"):
        net = vgg.VGG(vgg.make_layers([4, "M", 6, 6, "M"], batch_norm=True), 5, init_weights=False, dropout=0.0)
        for place, (before, after) in {0: (6 * 49, 8), 3: (8, 8), 6: (8, 5)}.items():
            net.classifier[place] = torch.nn.Linear(before, after)
    return net.to_empty(device="cpu")


def small_timm_vgg():
    """timm's, with narrow dense layers of its own kind, for which there is no option."""
    from timm.models import vgg

    with torch.device("meta"):
        net = vgg.VGG([4, "M", 6, 6, "M"], num_classes=5, norm_layer=torch.nn.BatchNorm2d)
        net.pre_logits, net.head = vgg.ConvMlp(6, 8, 7, drop_rate=0.0), vgg.ClassifierHead(8, 5)
    return net.to_empty(device="cpu")


BIT = {"channels": [128, 128, 256, 128], "stem_chs": 32}
SWIN = {"embed_dim": 6, "depths": [2, 1], "num_heads": [2, 3]}
NETS = {
    "timm resnet": lambda: timm.create_model("resnet18", layers=[1, 1, 1, 1], num_classes=5),
    "timm resnet18d": lambda: timm.create_model("resnet18d", layers=[1, 1, 1, 1], num_classes=5),
    "timm vit": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=12, patch_size=4, embed_dim=24, depth=2, num_heads=4, num_classes=5
    ),
    "timm deit": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224",
        img_size=12,
        patch_size=4,
        embed_dim=24,
        depth=2,
        num_heads=4,
        num_classes=5,
    ),
    "timm swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=24, patch_size=2, window_size=3, num_classes=5, **SWIN
    ),
    "timm convnext": lambda: timm.create_model("convnext_tiny", depths=[1, 2, 1, 1], dims=[4, 6, 6, 8], num_classes=5),
    "timm bit": lambda: timm.create_model("resnetv2_50x1_bit", num_classes=5, **BIT),
    "timm efficientnet": lambda: timm.create_model("tf_efficientnet_b0", num_classes=5),
    "timm mobilenetv2_035": lambda: timm.create_model("mobilenetv2_035", num_classes=5),
    "timm mobilenetv2_110d": lambda: timm.create_model("mobilenetv2_110d", num_classes=5),
    "timm mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    "timm tf_mobilenetv3": lambda: timm.create_model("tf_mobilenetv3_large_075", num_classes=5),
    "timm vgg": small_timm_vgg,
    "torchvision resnext": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5, groups=32, width_per_group=4
    ),
    "torchvision swin": lambda: torchvision.models.SwinTransformer([2, 2], window_size=[3, 3], num_classes=5, **SWIN),
    "torchvision inception": lambda: scaled_inception(1 / 16),
    "torchvision vgg": small_vgg,
    "torchvision mobilenet": lambda: torchvision.models.mobilenet_v3_small(width_mult=0.25, num_classes=5),
}


def logits(net, x):
    with torch.no_grad():
        return net.eval()(torch.tensor(np.load(x)).permute(0, 3, 1, 2)).numpy()


def make(name, x, file, out):
    """Saves a network with random weights, and its logits."""
    net = randomise(NETS[name]())
    for module in net.modules():
        if hasattr(module, "define_relative_position_index"):  # a buffer of torchvision's that is no weight
            module.define_relative_position_index()
    torch.save(net.state_dict(), file)
    np.save(out, logits(net, x))


def load(name, x, file, out):
    """The logits of a network with the weights of a file, all of them and no other."""
    from safetensors.torch import load_file

    net = NETS[name]()
    net.load_state_dict(load_file(file), strict=True)
    np.save(out, logits(net, x))


def load_folder(folder, x, out, **changes):
    """The logits of the network that timm makes of a folder alone, with other measures where there are changes."""
    np.save(out, logits(timm.create_model(f"local-dir:{folder}", pretrained=True, **changes), x))


def load_original(name, x, file, out):
    """The logits of a network of timm with the weights of an original release, as timm itself reads it."""
    net = NETS[name]()
    net.load_pretrained(file)
    np.save(out, logits(net, x))


def shapes(library, name):
    """The shape of every tensor of a whole network."""
    with torch.device("meta"):
        made = timm.create_model(name) if library == "timm" else getattr(torchvision.models, name)()
    return {name: list(tensor.shape) for name, tensor in made.state_dict().items()}


if __name__ == "__main__":
    DO = {"make": make, "load": load, "load_folder": load_folder, "load_original": load_original, "shapes": shapes}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": DO[request.pop("do")](**request)}
        except Exception:  # the test that asked gets the traceback, and fails with it
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
