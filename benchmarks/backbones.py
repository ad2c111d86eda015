"""The size and cost of networks, and the accuracy of published weights in jtl.

    JTL_DATA=FOLDER python benchmarks/backbones.py        (minutes; without JTL_DATA the weights are left out)

The networks and their numbers are those of `jtl models`, which lists more of each family. The numbers follow from
shapes alone: parameters without a head, and the floating-point operations of the matrix products for one example, two
per multiply-add. Nothing is timed.
"""

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np

from benchmarks import tables
from benchmarks.measure import environment
from jtl import load, preprocessed
from jtl.data import augment
from jtl.methods.finetune.finetune import predictor
from jtl.networks import network
from jtl.pretrained.catalogue import lines

SHOWN = [
    "cifar_resnet20", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56", "cifar_resnet110", "resnet18", "resnet34",
    "resnet50", "resnet101", "resnet152", "resnet50d", "resnext50_32x4d", "wide_resnet50_2", "resnetv2_50x1_bit",
    "resnetv2_152x4_bit", "alexnet", "vgg16", "densenet121", "inception_v3", "mobilenet_v2", "mobilenet_v3_small",
    "mobilenet_v3_large", "efficientnet_b0", "efficientnet_b7", "efficientnet_v2_s", "tf_efficientnetv2_xl",
    "convnext_atto", "convnext_tiny", "convnext_base", "convnext_xlarge", "vit_tiny_patch16_224",
    "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224", "deit_base_distilled_patch16_224",
    "deit3_base_patch16_224", "vit_base_patch14_dinov2", "vit_base_patch14_reg4_dinov2", "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224", "swin_tiny_patch4_window7_224", "swin_large_patch4_window12_384",
    "clip_vision_model", "siglip_vision_model", "clip_text_model", "siglip_text_model", "bert-base-uncased",
    "bert-large-uncased", "all-MiniLM-L6-v2", "roberta-base", "distilbert-base-uncased", "gpt2", "gpt2-xl",
    "SmolLM2-135M", "Qwen2.5-0.5B", "Qwen3-0.6B", "Mistral-7B-v0.3", "bilstm", "wav2vec2-base", "wav2vec2-large",
    "hubert-base-ls960", "whisper-tiny", "whisper-large-v3",
]  # fmt: skip
"""The most used sizes of every family; networks that only a `config.json` describes have their family's name."""
PUBLISHED = {
    "cifar_resnet20": ("resnet20-12fca82f.th", 91.73),
    "cifar_resnet32": ("resnet32-d509ac18.th", 92.63),
    "cifar_resnet44": ("resnet44-014dd654.th", 93.10),
    "cifar_resnet56": ("resnet56-4bfd9763.th", 93.39),
}
"""Akamaster's CIFAR-10 ResNets: network -> its file, published test accuracy in percent."""


def row(name: str) -> dict[str, Any]:
    """The row of one network, from shapes alone: no weights are made."""
    line = next(line for line in lines(name) if line.name in (name, ""))
    return {
        "network": name,
        "example": line.shape,
        "parameters": line.parameters,
        "flops": line.flops,
        "published": None,
        "right": None,
    }


def right(name: str, folder: Path) -> tuple[int, int]:
    """The number of CIFAR-10's test images that a published network classifies correctly, and their total number."""
    known = load(folder / "cifar_resnet" / PUBLISHED[name][0], arch=name)
    images: Any = known.preprocessing
    backbone = preprocessed(known.backbone, augment.normalise(images.mean, images.std))
    predict = jax.jit(predictor(network(backbone=backbone, head=known.head)))
    stored = np.load(folder / "cifar10.npz")
    x, y = stored["x_test"], stored["y_test"]
    found = [predict(known.variables, x[i : i + 250]).argmax(-1) == y[i : i + 250] for i in range(0, len(x), 250)]
    return int(sum(part.sum() for part in found)), len(x)


def main(argv: list[str]) -> None:
    """Writes `results/backbones-*.json` and its table."""
    where, folder = environment(argv), os.environ.get("JTL_DATA")
    found = []
    for name in SHOWN:
        found.append(row(name))
        if name in PUBLISHED and folder is not None:
            found[-1] |= {"published": PUBLISHED[name][1], "right": right(name, Path(folder))}
        print(found[-1], flush=True)
    results = {"benchmark": "backbones", "environment": where, "rows": found}
    tables.write(results, ROOT / "benchmarks" / "results" / f"backbones-{where['backend']}.json")


if __name__ == "__main__":
    main(sys.argv)
