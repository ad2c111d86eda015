"""Makes an adapter from the tensors and the config of PEFT's files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.peft.adalora import adalora
from jtl.peft.attach import Adapter
from jtl.peft.file_names import CONFIG, ENDINGS, PREFIX, WEIGHTS, check_kernel, module_of
from jtl.peft.fourierft import fourierft
from jtl.peft.fused import cut
from jtl.peft.hra import hra
from jtl.peft.ia3 import ia3
from jtl.peft.loha import loha
from jtl.peft.lokr import lokr
from jtl.peft.lora import lora
from jtl.peft.lycoris_files import FACTORS, has_core, read_factor
from jtl.peft.oft import oft
from jtl.peft.prompt_files import KINDS
from jtl.peft.vera import Projections, vera
from jtl.pretrained.load import Pretrained
from jtl.weights.mapping.rules import Rule, Rules

_OTHERS = (  # entries of a config that change the computation and that jtl does not read
    "bias",
    "vera_dropout",
    "module_dropout",
    "rank_dropout",
    "coft",
    "block_share",
    "apply_GS",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "velora_config",
    "kasa_config",
    "monteclora_config",
)
_DEFAULTS = {"r": 8, "lora_alpha": 8, "alpha": 8, "init_r": 12}  # PEFT's, of entries that a config lacks
_DEFAULTS |= {"n_frequency": 1000, "scaling": 150.0, "random_loc_seed": 777}
_REST = ("pissa_", "corda", "olora", "loftq", "lora_ga")  # initialisations whose part of the base is not known


class Part(NamedTuple):
    """A leaf of one module's adapter.

    Args:
      module: path of the module in the backbone.
      leaf: name of the leaf, such as `a`.
      value: its value, in jtl's layout.
      first: index of the module's first output in the file's layer, which may be several modules.
      before: whether IA3 scales the module's input.
      layer: name of the layer in the file.
    """

    module: str
    leaf: str
    value: np.ndarray
    first: int
    before: bool
    layer: str


def parts_of(
    rules: Rules,
    config: Mapping[str, Any],
    name: str,
    ending: str,
    tensor: Any,
    params: Mapping[str, Any],
    pretrained: Pretrained,
) -> Iterator[Part]:
    """Yields the leaf that a tensor holds, for each of the modules that make up its layer."""
    layer = name.removeprefix(PREFIX).removesuffix(f".{ending}")
    _, paths = _paths(rules, f"{layer}.weight", name, params)
    leaf, change = ENDINGS[ending]
    for path in paths:
        if not path.startswith("backbone/") or not path.endswith("/kernel"):
            raise ValueError(f"{name}: adapts {path!r}; only layers of the backbone are adapted")
        check_kernel(pretrained, module_of(path), params[path])
    widths = [params[path].shape[-1] for path in paths]
    value, before, kernel = change(np.asarray(tensor)), _is_input(config, layer), params[paths[0]]
    if ending in FACTORS:
        value = read_factor(leaf, value, kernel, has_core(config, kernel), name)
    parts = cut(leaf, value, widths, before, name) if len(paths) > 1 else [value]
    starts = np.cumsum([0, *widths])
    for path, part, start in zip(paths, parts, starts, strict=False):
        yield Part(module_of(path), leaf, part, int(start), before, layer)


def _paths(rules: Rules, name: str, given: str, params: Mapping[str, Any]) -> tuple[Rule, tuple[str, ...]]:
    found = rules.first(name)
    if found is None or not found[1]:
        raise ValueError(f"{given}: the network has no parameter {name!r} by its file's names")
    rule, paths = found
    missing = [path for path in paths if path not in params]
    if missing:
        raise ValueError(f"{given}: leads to {missing[0]!r}, which the network lacks")
    return rule, paths


def own_leaves(rules: Rules, name: str, given: str, tensor: Any, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A parameter of the network itself, such as its head's, by path."""
    rule, paths = _paths(rules, name, given, params)
    made = rule.transform.forward(np.asarray(tensor))
    return {path: np.asarray(part) for path, part in zip(paths, made if len(paths) > 1 else [made], strict=True)}


def adapter_of(config: Mapping[str, Any], parts: Sequence[Part], shared: Mapping[str, Any]) -> Adapter:
    """The adapter that a config describes, at these modules."""
    config = {**_DEFAULTS, **config}
    kind, where = config.get("peft_type"), {part.module: re.escape(part.module) for part in parts}
    used = {name: config[name] for name in _OTHERS if config.get(name) not in (None, False, "none", {}, [], 0.0)}
    if used and kind != "IA3":
        raise ValueError(f"{CONFIG}: sets {used}, which jtl does not read")
    if kind == "LORA":
        start = config.get("init_lora_weights")
        if isinstance(start, str) and start.startswith(_REST):
            raise ValueError(
                f"{CONFIG}: init_lora_weights={start!r} stands beside a base that PEFT changed by it, not the"
                " pretrained one; save the adapter with path_initial_model_for_weight_conversion"
            )
        if start == "pissa" and len({part.layer for part in parts}) < len({part.module for part in parts}):
            raise ValueError(
                f"{CONFIG}: init_lora_weights='pissa' of layers that are several in jtl, which have other singular"
                " values; save the adapter with path_initial_model_for_weight_conversion"
            )
        return lora(
            config["r"],
            tuple(where.values()),
            alpha=config["lora_alpha"],
            rank_stabilised=bool(config.get("use_rslora")),
            dropout=config.get("lora_dropout", 0.0),
            magnitude=bool(config.get("use_dora")),
            start="pissa" if start == "pissa" else "zero",
            ranks=_by_module(config, "rank_pattern", parts),
            alphas=_by_module(config, "alpha_pattern", parts),
        )
    if kind == "ADALORA":
        left = config.get("rank_pattern") or {}
        lower = {part.layer: sum(map(bool, left[name])) for part in parts if (name := f"{part.layer}.lora_E") in left}
        return adalora(
            config["init_r"],
            tuple(where.values()),
            alpha=config["lora_alpha"] if config["lora_alpha"] > 0 else None,
            dropout=config.get("lora_dropout", 0.0),
            ranks={where[part.module]: lower[part.layer] for part in parts if part.layer in lower},
        )
    if kind == "LOHA":
        return loha(config["r"], tuple(where.values()), **_scaled(config, parts))
    if kind == "LOKR":
        factor = config.get("decompose_factor", -1)
        return lokr(
            config["r"],
            tuple(where.values()),
            factor=None if factor == -1 else max(1, factor),  # of another below 1 PEFT makes the same as of 1
            both=bool(config.get("decompose_both")),
            **_scaled(config, parts),
        )
    if kind == "VERA":
        if shared.keys() != {"a", "b"}:
            raise ValueError(f"{WEIGHTS}: lacks vera_A or vera_B; save VeRA with save_projection=True")
        return vera(
            tuple(where.values()),
            Projections(**shared),
            initial=config.get("d_initial") or 0.1,
            first={part.module: part.first for part in parts},
        )
    if kind == "OFT":
        if "use_cayley_neumann" not in config:
            raise ValueError(f"{CONFIG}: does not set use_cayley_neumann; an older PEFT computed OFT in another way")
        entries = {part.value.shape[1] for part in parts if part.leaf == "q"}
        if len(entries) != 1:
            raise ValueError(
                f"{WEIGHTS}: its modules have blocks of several sizes, with {sorted(entries)} entries each"
            )
        block = round((1 + (1 + 8 * entries.pop()) ** 0.5) / 2)
        terms = config.get("num_cayley_neumann_terms", 5) if config["use_cayley_neumann"] else None
        return oft(tuple(where.values()), block, terms=terms)
    if kind == "HRA":
        return hra(config["r"], tuple(where.values()))
    if kind == "FOURIERFT":
        return fourierft(
            config["n_frequency"],
            tuple(where.values()),
            scale=config["scaling"],
            seed=config["random_loc_seed"],
            start="zero" if config.get("init_weights") else "normal",
            counts=_by_module(config, "n_frequency_pattern", parts),
        )
    if kind == "IA3":
        before = {part.module for part in parts if part.before}
        return ia3(
            tuple(where[m] for m in where if m not in before), inputs=tuple(where[m] for m in where if m in before)
        )
    others = (
        "LORA (with rsLoRA and DoRA)",
        "ADALORA",
        "LOHA",
        "LOKR",
        "VERA",
        "OFT",
        "FOURIERFT",
        "HRA",
        "IA3",
        *KINDS,
    )
    raise ValueError(f"{CONFIG}: peft_type={kind!r}; read are {others}")


def _scaled(config: Mapping[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
    """The options that LoHa and LoKr have in common."""
    return {
        "alpha": config["alpha"],
        "tucker": bool(config.get("use_effective_conv2d")),
        "ranks": _by_module(config, "rank_pattern", parts),
        "alphas": _by_module(config, "alpha_pattern", parts),
    }


def _by_module(config: Mapping[str, Any], entry: str, parts: Sequence[Part]) -> dict[str, Any]:
    """The values of a PEFT pattern by module: its first regex that matches the end of the layer's name counts."""
    patterns = config.get(entry) or {}
    found = {}
    for part in parts:
        keys = [key for key in patterns if re.match(rf"(.*\.)?({key})$", part.layer)]
        if keys:
            found[re.escape(part.module)] = patterns[keys[0]]
    return found


def _is_input(config: Mapping[str, Any], layer: str) -> bool:
    said = config.get("feedforward_modules") or ()
    if isinstance(said, str):
        return re.fullmatch(said, layer) is not None
    return any(layer == end or layer.endswith(f".{end}") for end in said)
