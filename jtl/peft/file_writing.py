"""Makes the tensors and the config of PEFT's files from an adapter."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.model import ADAPTER, Variables
from jtl.params import flatten, unflatten
from jtl.peft.attach import Adapter, matched
from jtl.peft.file_names import ENDINGS, PREFIX, SHARED, TURNED, check_kernel, matches, module_of, table_of
from jtl.peft.fused import fuse
from jtl.peft.lora import rank_and_scale
from jtl.peft.lycoris_files import FACTORS, KINDS, written_factor
from jtl.pretrained.load import Pretrained
from jtl.typing import Params
from jtl.weights.mapping.export import named

QUANTISED = ("/kernel/codes", "/kernel/scales")
"""Endings of the leaves with which `jtl.peft.quantise` replaces a kernel."""


def written(adapter: Adapter, pretrained: Pretrained, base: Params) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the config, and the tensors by name."""
    tensors: dict[str, np.ndarray] = {}
    flat, table = flatten(base), table_of(pretrained)
    modules: dict[str, tuple[str, ...]] = {}
    for module in matched(base, adapter.where, adapter.takes):
        name, paths = named(f"backbone/{module}/kernel", table)[-1]  # its name in transformers since version 5
        modules[name.removesuffix(".weight")] = tuple(module_of(path) for path in paths)
    inputs, first = adapter.config.get("inputs", ()), adapter.config.get("first", {})
    made, widest, before, scales = {}, [], {}, {}
    for name, parts in modules.items():
        kernels = [flat[f"{module}/kernel"] for module in parts]
        for module, kernel in zip(parts, kernels, strict=True):
            check_kernel(pretrained, module, kernel)
        ends = np.cumsum([kernel.shape[-1] for kernel in kernels])
        starts = [0, *map(int, ends[:-1])]
        if adapter.shared and starts != [first.get(module, 0) for module in parts]:
            raise ValueError(
                f"{name} is the layers {parts}; PEFT's columns of B begin at {starts}: give vera(first=...)"
            )
        leaves = [
            {leaf: np.asarray(flat[path]) for leaf, _ in ENDINGS.values() if (path := f"adapter/{m}/{leaf}") in flat}
            for m in parts
        ]
        sides = {matches(inputs, module) for module, leaf in zip(parts, leaves, strict=True) if leaf}
        if len(sides) > 1:
            raise ValueError(f"{name} is the layers {parts}, of which IA3 scales inputs here and outputs there")
        before[name] = sides == {True}
        if "ranks" in adapter.config:
            leaves, scales[name] = _one_scale(adapter.config, parts, leaves)
        made[name] = fuse(leaves, kernels, before[name], name)
        widest.append((kernels[0].shape[0], int(ends[-1])))
    own = ("inputs", "first", "ranks", "alphas", "kept", "counts")
    config = {name: value for name, value in adapter.config.items() if name not in own}
    if scales:
        ranks = {name: _rank(adapter.config, part, modules[name]) for name, part in made.items()}
        config |= _patterns(config, ranks, scales)
    if "kept" in adapter.config:  # PEFT wants to know which of the first directions are left; only their number matters
        first_rank = config["init_r"]
        left = {name: len(leaves["s"]) for name, leaves in made.items()}
        if set(left.values()) != {first_rank}:
            config["rank_pattern"] = {f"{name}.lora_E": [i < n for i in range(first_rank)] for name, n in left.items()}
    if "counts" in adapter.config:
        most = config["n_frequency"]
        config["n_frequency_pattern"] = {n: len(part["c"]) for n, part in made.items() if len(part["c"]) != most}
    for name, leaves in made.items():
        image = flat[f"{modules[name][0]}/kernel"].ndim == 4
        for ending, (leaf, _) in ENDINGS.items():
            if leaf in leaves:
                if ending in FACTORS:
                    value = written_factor(leaf, leaves[leaf], core="t1" in leaves or "t" in leaves)
                else:
                    value = _as_torch(leaf, leaves[leaf], before[name], image)
                tensors[f"{PREFIX}{name}.{ending}"] = np.ascontiguousarray(value)
    if adapter.shared:  # in the size in which PEFT makes them for these modules
        rows, columns = np.max(widest, 0)
        a, b = np.asarray(adapter.shared["a"])[:rows], np.asarray(adapter.shared["b"])[:, :columns]
        tensors |= {name: np.ascontiguousarray((a if leaf == "a" else b).T) for name, leaf in SHARED.items()}
    turned = pretrained.config.model_type in TURNED
    config |= {"target_modules": list(modules), "inference_mode": True}
    kind = config["peft_type"]
    if turned and kind in (*KINDS, "OFT", "HRA"):
        raise ValueError(f"PEFT has no {kind} of the layers of GPT-2: save it with jtl.Checkpoints")
    if kind in KINDS:
        config["alpha"] = config.pop("lora_alpha")
        del config["use_rslora"]
    elif kind != "HRA":
        config["fan_in_fan_out"] = turned
    if "inputs" in adapter.config:
        config["feedforward_modules"] = [name for name in modules if before[name]]
    return config, tensors


def unquantised(pretrained: Pretrained, variables: Variables) -> Variables:
    """The variables with the pretrained kernels in place of the quantised ones, which stand for them."""
    before, flat = flatten(pretrained.variables.params), flatten(variables.params)
    few = {path: kernel for path in flat if path.endswith(QUANTISED) and (kernel := path.rpartition("/")[0]) in before}
    kept = {path: leaf for path, leaf in flat.items() if path not in few}
    return variables._replace(params=unflatten(kept | {kernel: before[kernel] for kernel in few.values()}))


def changed(pretrained: Pretrained, variables: Variables, part: str) -> list[str]:
    """The parameters of a part of the network, adapters aside, that have changed since it was loaded."""
    before, found = flatten(pretrained.variables.params.get(part, {})), []
    for path, leaf in flatten(variables.params.get(part, {})).items():
        if path.startswith(f"{ADAPTER}/"):
            continue
        old = before.get(path)
        if old is None or old.shape != leaf.shape or not np.array_equal(np.asarray(old).astype(leaf.dtype), leaf):
            found.append(f"{part}/{path}")
    return found


def _one_scale(
    config: Mapping[str, Any], modules: Sequence[str], parts: Sequence[Mapping[str, np.ndarray]]
) -> tuple[list[Mapping[str, np.ndarray]], float]:
    """Rescales LoRA's or LoHa's leaves of the modules of one layer to a common scale; returns them and that scale."""
    scales = [rank_and_scale(config, module)[1] for module, part in zip(modules, parts, strict=True) if part]
    made = [
        {**part, top: part[top] * (rank_and_scale(config, module)[1] / scales[0])}
        if top in part and len(set(scales)) > 1
        else part
        for module, part in zip(modules, parts, strict=True)
        for top in ["b1" if "b1" in part else "b"]
    ]
    return made, scales[0]


def _rank(config: Mapping[str, Any], leaves: Mapping[str, np.ndarray], modules: Sequence[str]) -> int:
    """Of a layer's factors, where one of several modules is the sum of theirs; of LoKr what the adapter says."""
    inner = leaves.get("a", leaves.get("a1"))
    return rank_and_scale(config, modules[0])[0] if inner is None else inner.shape[-1]


def _patterns(config: Mapping[str, Any], ranks: Mapping[str, int], scales: Mapping[str, float]) -> dict[str, Any]:
    """The rank and alpha of most layers, and PEFT's patterns for the others."""
    alphas = {}
    for name, rank in ranks.items():
        alpha = scales[name] * (rank**0.5 if config["use_rslora"] else rank)
        alphas[name] = int(near) if abs(alpha - (near := round(alpha))) < 1e-9 * alpha else alpha
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != r},
        "alpha_pattern": {f"^{re.escape(name)}": one for name, one in alphas.items() if one != alpha},
    }


def _as_torch(leaf: str, value: np.ndarray, before: bool, image: bool) -> np.ndarray:
    if image and leaf in ("scale", "m"):
        return value[None, :, None, None]
    if leaf in ("scale", "s"):
        return value[None] if before else value[:, None]
    if leaf not in ("a", "b"):
        return value
    value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return value[:, :, None, None] if leaf == "b" and image else value
