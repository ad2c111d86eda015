"""Backbones: functions that return a `Model` whose output is a dict of features by name."""

from jtl.backbones.alexnet.network import alexnet
from jtl.backbones.bert.network import Pooler, bert
from jtl.backbones.bit.network import bit
from jtl.backbones.cifar_resnet.network import cifar_resnet
from jtl.backbones.clip.network import clip_image, clip_text
from jtl.backbones.conv4 import conv4
from jtl.backbones.convnext.network import convnext
from jtl.backbones.densenet.network import DenseSize, densenet
from jtl.backbones.efficientnet.network import efficientnet
from jtl.backbones.efficientnet_v2.network import EfficientNetV2Size, efficientnet_v2
from jtl.backbones.gpt2.network import gpt2
from jtl.backbones.identity import identity
from jtl.backbones.inception_v3.network import inception_v3
from jtl.backbones.llama.network import LlamaParts, llama
from jtl.backbones.mlp import mlp
from jtl.backbones.mobilenet_v2.network import mobilenet_v2
from jtl.backbones.mobilenet_v3.network import mobilenet_v3
from jtl.backbones.recurrent.network import RecurrentSize, recurrent
from jtl.backbones.resnet.network import resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from jtl.backbones.siglip.network import siglip_image, siglip_text
from jtl.backbones.swin.network import swin
from jtl.backbones.vgg.network import vgg
from jtl.backbones.vit.network import deit, deit3, dinov2, vit
from jtl.backbones.wav2vec2.network import wav2vec2
from jtl.backbones.whisper.network import whisper
from jtl.nn.audio_frontend import Convolution
from jtl.nn.sentence_pooling import sentences
from jtl.nn.sizes import Size
from jtl.nn.span_masking import Spans
from jtl.nn.two_towers import normalised, two_towers

__all__ = [
    "Convolution",
    "DenseSize",
    "EfficientNetV2Size",
    "LlamaParts",
    "Pooler",
    "RecurrentSize",
    "Size",
    "Spans",
    "alexnet",
    "bert",
    "bit",
    "cifar_resnet",
    "clip_image",
    "clip_text",
    "conv4",
    "convnext",
    "deit",
    "deit3",
    "densenet",
    "dinov2",
    "efficientnet",
    "efficientnet_v2",
    "gpt2",
    "identity",
    "inception_v3",
    "llama",
    "mlp",
    "mobilenet_v2",
    "mobilenet_v3",
    "normalised",
    "recurrent",
    "resnet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "sentences",
    "siglip_image",
    "siglip_text",
    "swin",
    "two_towers",
    "vgg",
    "vit",
    "wav2vec2",
    "whisper",
]
