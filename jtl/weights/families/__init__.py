"""The families of networks that jtl reads, by transformers' `model_type`."""

from jtl.weights.families.base import Config, Family
from jtl.weights.families.bert import BERT, DISTILBERT, ROBERTA
from jtl.weights.families.bit import BIT
from jtl.weights.families.cifar_resnet import CIFAR_RESNET
from jtl.weights.families.convnext import CONVNEXT
from jtl.weights.families.deit import DEIT
from jtl.weights.families.deit3 import DEIT3
from jtl.weights.families.densenet import DENSENET
from jtl.weights.families.dinov2 import DINOV2, DINOV2_WITH_REGISTERS
from jtl.weights.families.efficientnet import EFFICIENTNET
from jtl.weights.families.efficientnet_v2 import EFFICIENTNET_V2
from jtl.weights.families.gpt2 import GPT2
from jtl.weights.families.inception_v3 import INCEPTION_V3
from jtl.weights.families.mobilenet_v2 import MOBILENET_V2
from jtl.weights.families.mobilenet_v3 import MOBILENET_V3
from jtl.weights.families.recurrent import RECURRENT
from jtl.weights.families.resnet import RESNET
from jtl.weights.families.resnet_variant import RESNET_VARIANT
from jtl.weights.families.swin import SWIN
from jtl.weights.families.timm_towers import TIMM_CLIP, TIMM_SIGLIP
from jtl.weights.families.towers import BOTH, TOWERS
from jtl.weights.families.vgg import ALEXNET, VGG
from jtl.weights.families.vit import VIT
from jtl.weights.families.wav2vec2 import HUBERT, WAV2VEC2
from jtl.weights.families.whisper import WHISPER

FAMILIES: dict[str, Family] = {
    "resnet": RESNET,
    "resnet_variant": RESNET_VARIANT,
    "bit": BIT,
    "vit": VIT,
    "deit": DEIT,
    "deit3": DEIT3,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2_WITH_REGISTERS,
    "mobilenet_v2": MOBILENET_V2,
    **BOTH,
    **TOWERS,
    "timm_clip": TIMM_CLIP,
    "timm_siglip": TIMM_SIGLIP,
    "mobilenet_v3": MOBILENET_V3,
    "efficientnet": EFFICIENTNET,
    "efficientnet_v2": EFFICIENTNET_V2,
    "convnext": CONVNEXT,
    "swin": SWIN,
    "inception_v3": INCEPTION_V3,
    "vgg": VGG,
    "alexnet": ALEXNET,
    "densenet": DENSENET,
    "cifar_resnet": CIFAR_RESNET,
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "gpt2": GPT2,
    "wav2vec2": WAV2VEC2,
    "hubert": HUBERT,
    "whisper": WHISPER,
    "recurrent": RECURRENT,
}

__all__ = ["FAMILIES", "Config", "Family"]
