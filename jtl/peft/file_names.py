"""Names and layouts of adapters in PEFT's files."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jtl.backbones.registry import FAMILIES
from jtl.model import Variables
from jtl.peft.lycoris_files import FACTORS
from jtl.pretrained.load import Pretrained
from jtl.pretrained.presets import tables
from jtl.weights.mapping.rules import Rule, Rules

TURNED = ("gpt2",)  # families whose kernels are [in, out] in transformers
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
ENDINGS = {
    "lora_A.weight": ("a", lambda a: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T),
    "lora_B.weight": ("b", lambda b: b.reshape(b.shape[:2]).T),  # [out, rank, 1, 1] for a convolution
    "lora_magnitude_vector": ("m", np.ravel),
    "lora_E": ("s", np.ravel),
    "ia3_l": ("scale", np.ravel),
    "vera_lambda_d": ("d", np.ravel),
    "vera_lambda_b": ("l", np.ravel),
    "oft_R.weight": ("q", np.asarray),
    "fourierft_spectrum": ("c", np.asarray),
    "hra_u": ("h", np.asarray),
    **{ending: (leaf, np.asarray) for ending, leaf in FACTORS.items()},  # whose layouts depend on their layer
}
SHARED = {"base_model.vera_A": "a", "base_model.vera_B": "b"}


def naming_of(pretrained: Pretrained) -> str:
    """Whose names an adapter's file uses: timm's if the network's file did, else transformers'."""
    return "timm" if pretrained.naming == "timm" else "transformers"


def table_of(pretrained: Pretrained, names: Sequence[str] = ()) -> list[Rule]:
    """The table of an adapter's names; if both timm's and transformers' are known, the one that fits `names`."""
    known = tables(FAMILIES[pretrained.config.model_type], pretrained.config)
    naming = naming_of(pretrained)
    if names and {"timm", "transformers"} <= known.keys():
        ends, rules = "|".join(rf"{re.escape(ending)}$" for ending in ENDINGS), Rules(known["timm"])
        bare = [re.sub(ends, "weight", name).removeprefix(PREFIX) for name in names]
        naming = "timm" if any(rules.first(name) for name in bare) else "transformers"
    if naming not in known:
        raise ValueError(f"transformers has no network of the family {pretrained.config.model_type!r}")
    return list(known[naming])


def check_names(pretrained: Pretrained) -> None:
    """Refuses a network whose names in transformers are unclear: a bare model has no prefix there, a classifier has."""
    if pretrained.variables.params.get("head") or naming_of(pretrained) == "timm":
        return
    family = FAMILIES[pretrained.config.model_type]
    backbone = Variables(pretrained.variables.params["backbone"], pretrained.variables.stats.get("backbone", {}))
    made = jax.eval_shape(
        lambda v, x: pretrained.backbone.apply(v, x, train=False)[0], backbone, family.example(pretrained.config)
    )
    if "logits" not in made:
        raise ValueError(
            "this network has no head and gives no logits, and PEFT's names are written for a classifier's or a"
            " language model's; load one with it"
        )


def check_kernel(pretrained: Pretrained, module: str, kernel: Any) -> None:
    """Refuses a layer that PEFT would update differently."""
    if kernel.ndim == 4 and pretrained.config.model_type == "bit":
        raise ValueError(
            f"the kernel of {module!r} is standardised after its update, and PEFT adds the update afterwards:"
            " save adapters of BiT's convolutions with jtl.Checkpoints"
        )


def module_of(path: str) -> str:
    """The path of a kernel's module in the backbone."""
    return path.removeprefix("backbone/").removesuffix("/kernel")


def matches(patterns: Any, path: str) -> bool:
    """Whether one of the regexes matches the whole path."""
    return any(re.fullmatch(pattern, path) for pattern in patterns)
