"""Backbones: functions that return a `Model` whose output is a dict of features by name."""

from jtl.backbones.alexnet import alexnet
from jtl.backbones.bert import Pooler, bert
from jtl.backbones.bit import bit
from jtl.backbones.cifar_resnet import cifar_resnet
from jtl.backbones.clip import clip_image, clip_text
from jtl.backbones.conv4 import conv4
from jtl.backbones.convnext import convnext
from jtl.backbones.densenet import DenseSize, densenet
from jtl.backbones.efficientnet import efficientnet
from jtl.backbones.efficientnet_v2 import EfficientNetV2Size, efficientnet_v2
from jtl.backbones.gpt2 import gpt2
from jtl.backbones.identity import identity
from jtl.backbones.inception_v3 import inception_v3
from jtl.backbones.mlp import mlp
from jtl.backbones.mobilenet_v2 import mobilenet_v2
from jtl.backbones.mobilenet_v3 import mobilenet_v3
from jtl.backbones.recurrent import RecurrentSize, recurrent
from jtl.backbones.resnet import resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from jtl.backbones.siglip import siglip_image, siglip_text
from jtl.backbones.swin import swin
from jtl.backbones.vgg import vgg
from jtl.backbones.vit import deit, deit3, dinov2, vit
from jtl.backbones.wav2vec2 import wav2vec2
from jtl.backbones.whisper import whisper
from jtl.nn.audio_frontend import Convolution
from jtl.nn.sentence_pooling import sentences
from jtl.nn.sizes import Size
from jtl.nn.span_masking import Spans
from jtl.nn.two_towers import normalised, two_towers

__all__ = [
    "Convolution",
    "DenseSize",
    "EfficientNetV2Size",
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
