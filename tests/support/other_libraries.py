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


def small_efficientnet_v2():
    """torchvision's with three stages, one of each kind of block."""
    from torchvision.models import efficientnet as parts

    first = [parts.FusedMBConvConfig(1, 3, 1, 8, 8, 1), parts.FusedMBConvConfig(2, 3, 2, 8, 16, 2)]
    norm = partial(torch.nn.BatchNorm2d, eps=1e-3)
    rows = [*first, parts.MBConvConfig(3, 3, 2, 16, 24, 1)]
    return parts.EfficientNet(rows, dropout=0.0, num_classes=5, norm_layer=norm, last_channel=20)


def small_timm_efficientnet_v2(first, eps, padding):
    """timm's with such stages, the first in timm's words."""
    from timm.models import efficientnet as parts

    rows = parts.decode_arch_def([[row] for row in (first, "er_r2_k3_s2_e2_c16", "ir_r1_k3_s2_e3_c24_se0.25")])
    norm = partial(torch.nn.BatchNorm2d, eps=eps)
    common = {"stem_size": 8, "num_features": 20, "num_classes": 5, "act_layer": torch.nn.SiLU}
    return parts.EfficientNet(rows, norm_layer=norm, pad_type=padding, **common)


BIT = {"channels": [128, 128, 256, 128], "stem_chs": 32}
SWIN = {"embed_dim": 6, "depths": [2, 1], "num_heads": [2, 3]}
VIT = {"img_size": 12, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 4}
NETS = {
    "timm resnet": lambda: timm.create_model("resnet18", layers=[1, 1, 1, 1], num_classes=5),
    "timm resnet18d": lambda: timm.create_model("resnet18d", layers=[1, 1, 1, 1], num_classes=5),
    "timm seresnext26t": lambda: timm.create_model("seresnext26t_32x4d", layers=[1, 1, 1, 1], num_classes=5),
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, **VIT),
    "timm deit": lambda: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, **VIT),
    "timm dinov2": lambda: timm.create_model("vit_small_patch14_dinov2", num_classes=5, **VIT),
    "timm dinov2_reg4": lambda: timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=5, **VIT),
    "timm dinov2_giant": lambda: timm.create_model("vit_giant_patch14_dinov2", num_classes=5, **VIT),
    "timm deit3": lambda: timm.create_model("deit3_small_patch16_224", num_classes=5, **VIT),
    "timm clip": lambda: timm.create_model("vit_base_patch32_clip_224", num_classes=5, **VIT),
    "timm quickgelu": lambda: timm.create_model("vit_base_patch32_clip_quickgelu_224", num_classes=5, **VIT),
    "timm siglip": lambda: timm.create_model("vit_base_patch16_siglip_224", num_classes=5, **VIT),
    "timm siglip_tanh": lambda: timm.create_model("vit_so400m_patch16_siglip_256", num_classes=5, **VIT),
    "timm siglip_gap": lambda: timm.create_model("vit_base_patch16_siglip_gap_224", num_classes=5, **VIT),
    "timm swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=24, patch_size=2, window_size=3, num_classes=5, **SWIN
    ),
    "timm convnext": lambda: timm.create_model("convnext_tiny", depths=[1, 2, 1, 1], dims=[4, 6, 6, 8], num_classes=5),
    "timm convnext_atto": lambda: timm.create_model(
        "convnext_atto", depths=[1, 2, 1, 1], dims=[4, 6, 6, 8], num_classes=5
    ),
    "timm convnext_ols": lambda: timm.create_model(
        "convnext_atto_ols", depths=[1, 2, 1, 1], dims=[40, 6, 6, 8], num_classes=5
    ),
    "timm convnext_hnf": lambda: timm.create_model(
        "convnext_tiny_hnf", depths=[1, 2, 1, 1], dims=[4, 6, 6, 8], num_classes=5
    ),
    "timm convnext_mlp": lambda: timm.create_model(
        "convnext_large_mlp", depths=[1, 2, 1, 1], dims=[4, 6, 6, 8], num_classes=5
    ),
    "timm bit": lambda: timm.create_model("resnetv2_50x1_bit", num_classes=5, **BIT),
    "timm efficientnet": lambda: timm.create_model("tf_efficientnet_b0", num_classes=5),
    "timm tf_efficientnetv2": lambda: small_timm_efficientnet_v2("cn_r1_k3_s1_e1_c8_skip", 1e-3, "same"),
    "timm efficientnetv2_rw": lambda: small_timm_efficientnet_v2("er_r1_k3_s1_e1_c8", 1e-5, ""),
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
    "torchvision efficientnet_v2": small_efficientnet_v2,
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


def exact(name, x, file, out, folder):
    """Of a vision transformer of timm in float64: features and logits, and gradients in the place of parameters."""
    from safetensors.torch import save_file

    net = NETS[name]()
    net.load_state_dict(torch.load(file))
    net = net.double().eval()
    found = {}
    for i, block in enumerate(net.blocks, 1):
        block.register_forward_hook(lambda module, given, y, i=i: found.update({f"stage{i}": y}))
    x = torch.tensor(np.load(x)).permute(0, 3, 1, 2).double()
    found["last"] = net.forward_features(x)
    found["pooled"] = net.forward_head(found["last"], pre_logits=True)
    found["logits"] = net.forward_head(found["last"])
    found["logits"].sin().sum().backward()
    np.savez(out, **{name: value.detach().numpy() for name, value in found.items()})
    save_file({name: p.grad.contiguous() for name, p in net.named_parameters()}, f"{folder}/model.safetensors")


def load_folder(folder, x, out, **changes):
    """The logits of the network that timm makes of a folder alone, with other measures where there are changes."""
    np.save(out, logits(timm.create_model(f"local-dir:{folder}", pretrained=True, **changes), x))


def write_folder(name, file, folder, args):
    """The folder that timm writes of a network with the weights of a file."""
    net = NETS[name]()
    net.load_state_dict(torch.load(file))
    timm.models.save_for_hf(net, folder, model_args=args, safe_serialization=True)


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
    DO = {f.__name__: f for f in (make, load, exact, load_folder, write_folder, load_original, shapes)}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": DO[request.pop("do")](**request)}
        except Exception:  # the test that asked gets the traceback, and fails with it
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
