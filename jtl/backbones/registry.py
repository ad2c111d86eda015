"""The families of networks that jtl reads, by transformers' `model_type`."""

from jtl.backbones.bert.config import BERT, DISTILBERT, ROBERTA
from jtl.backbones.bit.config import BIT
from jtl.backbones.cifar_resnet.config import CIFAR_RESNET
from jtl.backbones.clip.config import BOTH, TOWERS
from jtl.backbones.clip.config_timm import TIMM_CLIP, TIMM_SIGLIP
from jtl.backbones.convnext.config import CONVNEXT
from jtl.backbones.densenet.config import DENSENET
from jtl.backbones.efficientnet.config import EFFICIENTNET
from jtl.backbones.efficientnet_v2.config import EFFICIENTNET_V2
from jtl.backbones.family import Config, Family
from jtl.backbones.gpt2.config import GPT2
from jtl.backbones.inception_v3.config import INCEPTION_V3
from jtl.backbones.mobilenet_v2.config import MOBILENET_V2
from jtl.backbones.mobilenet_v3.config import MOBILENET_V3
from jtl.backbones.recurrent.config import RECURRENT
from jtl.backbones.resnet.config import RESNET
from jtl.backbones.resnet.config_variants import RESNET_VARIANT
from jtl.backbones.swin.config import SWIN
from jtl.backbones.vgg.config import ALEXNET, VGG
from jtl.backbones.vit.config import VIT
from jtl.backbones.vit.config_deit import DEIT
from jtl.backbones.vit.config_deit3 import DEIT3
from jtl.backbones.vit.config_dinov2 import DINOV2, DINOV2_WITH_REGISTERS
from jtl.backbones.wav2vec2.config import HUBERT, WAV2VEC2
from jtl.backbones.whisper.config import WHISPER

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
