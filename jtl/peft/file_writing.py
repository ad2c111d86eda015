"""The tensors and the config of PEFT's files from an adapter."""

from typing import Any

import numpy as np

from jtl.params import flatten
from jtl.peft.attach import Adapter, matched
from jtl.peft.file_names import ENDINGS, PREFIX, SHARED, TURNED, check_kernel, matches, module_of, table_of
from jtl.peft.fused import fuse, padded
from jtl.pretrained.load import Pretrained
from jtl.typing import Params
from jtl.weights.mapping.export import named


def written(adapter: Adapter, pretrained: Pretrained, base: Params) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config and the tensors by name."""
    tensors: dict[str, np.ndarray] = {}
    flat, table = flatten(base), table_of(pretrained)
    modules: dict[str, tuple[str, ...]] = {}
    for module in matched(base, adapter.where, adapter.takes):
        name, paths = named(f"backbone/{module}/kernel", table)[-1]  # of transformers' networks since version 5
        modules[name.removesuffix(".weight")] = tuple(module_of(path) for path in paths)
    inputs, first = adapter.config.get("inputs", ()), adapter.config.get("first", {})
    made, widest, before = {}, [], {}
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
        made[name] = fuse(leaves, kernels, before[name], name)
        widest.append((kernels[0].shape[0], int(ends[-1])))
    config = {name: value for name, value in adapter.config.items() if name not in ("inputs", "first")}
    ranks = [part["a"].shape[-1] for part in made.values() if "a" in part]
    if ranks and max(ranks) > config["r"]:  # the scale of the update stays
        more = max(ranks) / config["r"]
        config |= {"r": max(ranks), "lora_alpha": config["lora_alpha"] * (more**0.5 if config["use_rslora"] else more)}
    for name, part in made.items():
        leaves = padded(part, config["r"]) if ranks else part
        image = flat[f"{modules[name][0]}/kernel"].ndim == 4
        for ending, (leaf, _) in ENDINGS.items():
            if leaf in leaves:
                value = _as_torch(leaf, leaves[leaf], before[name], image)
                tensors[f"{PREFIX}{name}.{ending}"] = np.ascontiguousarray(value)
    if adapter.shared:  # as large as PEFT makes them for these modules
        rows, columns = np.max(widest, 0)
        a, b = np.asarray(adapter.shared["a"])[:rows], np.asarray(adapter.shared["b"])[:, :columns]
        tensors |= {name: np.ascontiguousarray((a if leaf == "a" else b).T) for name, leaf in SHARED.items()}
    turned = pretrained.config.model_type in TURNED
    config |= {"target_modules": list(modules), "inference_mode": True, "fan_in_fan_out": turned}
    if "inputs" in adapter.config:
        config["feedforward_modules"] = [name for name in modules if before[name]]
    return config, tensors


def _as_torch(leaf: str, value: np.ndarray, before: bool, image: bool) -> np.ndarray:
    if leaf == "scale":
        return value[None] if before else value[:, None]
    if leaf not in ("a", "b"):
        return value
    value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return value[:, :, None, None] if leaf == "b" and image else value
