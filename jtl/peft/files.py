"""Adapters in PEFT's files: `adapter_config.json` beside `adapter_model.safetensors`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jtl.backbones.registry import FAMILIES
from jtl.model import Model, Variables
from jtl.params import flatten, unflatten
from jtl.peft.attach import Adapter, attach, matched
from jtl.peft.ia3 import ia3
from jtl.peft.lora import lora
from jtl.peft.oft import oft
from jtl.peft.vera import Projections, vera
from jtl.pretrained.load import Pretrained
from jtl.pretrained.presets import tables
from jtl.weights.formats.json import read_json
from jtl.weights.formats.safetensors import read_safetensors
from jtl.weights.mapping.export import export
from jtl.weights.mapping.rules import Rule, Rules

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_ENDINGS = {
    "lora_A.weight": ("a", lambda a: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T),
    "lora_B.weight": ("b", lambda b: b.reshape(b.shape[:2]).T),  # of a convolution [out, rank, 1, 1]
    "lora_magnitude_vector": ("m", np.ravel),
    "ia3_l": ("scale", np.ravel),
    "vera_lambda_d": ("d", np.ravel),
    "vera_lambda_b": ("l", np.ravel),
    "oft_R.weight": ("q", np.asarray),
}
_SHARED = {"base_model.vera_A": "a", "base_model.vera_B": "b"}
_OTHERS = (  # entries of a config that change what is computed, and that are not read
    "bias",
    "vera_dropout",
    "module_dropout",
    "coft",
    "block_share",
    "rank_pattern",
    "alpha_pattern",
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


class Loaded(NamedTuple):
    """A network with the adapters of a file.

    Args:
      network: the backbone with adapters, and the head.
      variables: its parameters; the head is the file's where that has one.
      adapter: what was attached, for `merge` and `save`.
    """

    network: Model
    variables: Variables
    adapter: Adapter


def load(directory: str | Path, pretrained: Pretrained) -> Loaded:
    """LoRA, rsLoRA, DoRA, VeRA, OFT or IA3 from a folder of PEFT, on the network they were trained on; without torch.

    Args:
      directory: holds `adapter_config.json` and `adapter_model.safetensors`.
      pretrained: of `jtl.load`, by transformers' names.

    Raises:
      ValueError: for another kind of adapter, for an entry of the config that jtl does not read, for a tensor whose
        name or shape the network has no place for, for an adapter of a fused layer (as GPT-2's `c_attn`), and for VeRA
        saved without its random matrices (`save_projection=False`), which torch alone could draw.
      WeightFileError: for a damaged file.

    PEFT's format: huggingface.co/docs/peft, "PEFT checkpoint format".

    Example:
      >>> import json, tempfile, jax, jtl, numpy as np
      >>> from pathlib import Path
      >>> from safetensors.numpy import save_file
      >>> body = jtl.backbones.vit(jtl.backbones.Size(12, 1, 3, 20), image=8, patch=4)
      >>> made = jtl.network(backbone=body, head=jtl.heads.linear(2)).init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
      >>> folder, config = Path(tempfile.mkdtemp()), {"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 1}
      >>> config |= {"num_attention_heads": 3, "intermediate_size": 20, "image_size": 8, "patch_size": 4}
      >>> _ = (folder / "config.json").write_text(json.dumps(config))
      >>> save_file({n: np.asarray(a) for n, a in jtl.flatten(made.params).items()}, folder / "model.safetensors")
      >>> pretrained = jtl.load(folder)
      >>> adapter = jtl.peft.lora(2, (".*/query",))
      >>> net, variables = jtl.peft.attach(pretrained.network, pretrained.variables, adapter, jax.random.key(0))
      >>> jtl.peft.save(folder / "adapter", pretrained, variables, adapter)
      >>> print(jtl.peft.summary(jtl.peft.load(folder / "adapter", pretrained).variables))
      1 adapted modules, 48 adapter parameters, 0.025 of all 1942
    """
    folder = Path(directory)
    config = read_json(folder / CONFIG, dict)
    if config is None:
        raise ValueError(f"{folder / CONFIG}: there is no such file")
    found: dict[str, dict[str, Any]] = {}
    whole, rules, params = {}, Rules(_table(pretrained)), flatten(pretrained.variables.params)
    shared = {}
    for name, tensor in read_safetensors(folder / WEIGHTS).items():
        if name in _SHARED:
            shared[_SHARED[name]] = np.asarray(tensor).T
            continue
        bare = name.removeprefix(_PREFIX)
        ending = next((e for e in _ENDINGS if bare.endswith(f".{e}")), None)
        path, rule = _path(rules, bare if ending is None else bare.removesuffix(ending) + "weight", name, params)
        if ending is None:
            whole[path] = np.asarray(rule.transform.forward(np.asarray(tensor)))
        else:
            leaf, change = _ENDINGS[ending]
            if not path.startswith("backbone/") or not path.endswith("/kernel"):
                raise ValueError(f"{name}: adapts {path!r}; only layers of the backbone are adapted")
            module = path.removeprefix("backbone/").removesuffix("/kernel")
            _as_peft(pretrained, module, params[path])
            found.setdefault(module, {})[leaf] = change(np.asarray(tensor))
    if not found:
        raise ValueError(f"{folder / WEIGHTS}: has no tensor that ends in one of {tuple(_ENDINGS)}")
    adapter = _adapter(config, found, shared, pretrained)
    net, variables = attach(pretrained.network, pretrained.variables, adapter, jax.random.key(0))
    leaves = {f"backbone/adapter/{m}/{n}": leaf for m, part in found.items() for n, leaf in part.items()} | whole
    flat = flatten(variables.params)
    for path, leaf in leaves.items():
        if path not in flat or flat[path].shape != leaf.shape:
            wanted = flat[path].shape if path in flat else "no such parameter"
            raise ValueError(f"{folder / WEIGHTS}: {path} is {leaf.shape}; the network has {wanted}")
    missing = sorted(path for path in flat if path.startswith("backbone/adapter/") and path not in leaves)
    if missing:
        raise ValueError(f"{folder / WEIGHTS}: lacks {missing}")
    flat |= {path: leaf.astype(flat[path].dtype) for path, leaf in leaves.items()}
    return Loaded(net, variables._replace(params=unflatten(flat)), adapter)


def save(directory: str | Path, pretrained: Pretrained, variables: Variables, adapter: Adapter) -> None:
    """Writes the adapters, not the base and not the head, as PEFT does; `PeftModel.from_pretrained` reads them.

    Args:
      directory: made where it is not there; files of that name in it are written over.
      pretrained: the network without adapters, with a head: its names are those of transformers' classifier.
      variables: of the network with adapters.
      adapter: the one that was attached.

    Raises:
      ValueError: for an adapter without a PEFT counterpart, a network without a head, and a fused layer.

    Example:
      >>> import jtl
      >>> jtl.peft.save("adapter", pretrained, variables, jtl.peft.lora(8, (".*/query",)))  # doctest: +SKIP
    """
    from safetensors.numpy import save_file

    if not adapter.config:
        raise ValueError("this adapter has no counterpart in PEFT; save its parameters with jtl.Checkpoints")
    if not pretrained.variables.params.get("head"):
        raise ValueError("this network has no head, and PEFT's names are written for a classifier's; load one with it")
    base, tensors, names = variables.params["backbone"], {}, {}
    flat = flatten(variables.params)
    for module in matched(base, adapter.where, adapter.takes):
        path = f"backbone/{module}/kernel"
        _as_peft(pretrained, module, flat[path])
        name = next(iter(export(unflatten({path: flat[path]}), _table(pretrained)))).removesuffix(".weight")
        names[module] = name
        for ending, (leaf, _) in _ENDINGS.items():
            if (value := flat.get(f"backbone/adapter/{module}/{leaf}")) is None:
                continue
            value = np.asarray(value)
            if leaf == "scale":
                value = value[None] if _any(adapter.config["inputs"], module) else value[:, None]
            if leaf in "ab":
                value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
                value = value[:, :, None, None] if leaf == "b" and flat[path].ndim == 4 else value
            tensors[f"{_PREFIX}{name}.{ending}"] = np.ascontiguousarray(value)
    if adapter.shared:  # as large as PEFT makes them for these modules
        widest = np.max([flat[f"backbone/{module}/kernel"].shape for module in names], 0)
        a, b = np.asarray(adapter.shared["a"])[: widest[0]], np.asarray(adapter.shared["b"])[:, : widest[1]]
        tensors |= {name: np.ascontiguousarray((a if leaf == "a" else b).T) for name, leaf in _SHARED.items()}
    config = {name: value for name, value in adapter.config.items() if name != "inputs"}
    config |= {"target_modules": list(names.values()), "inference_mode": True, "fan_in_fan_out": False}
    if "inputs" in adapter.config:
        config["feedforward_modules"] = [n for m, n in names.items() if _any(adapter.config["inputs"], m)]
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))


def _as_peft(pretrained: Pretrained, module: str, kernel: Any) -> None:
    if kernel.ndim == 4 and pretrained.config.model_type == "bit":
        raise ValueError(
            f"the kernel of {module!r} is standardised after its update, and PEFT adds the update afterwards:"
            " save adapters of BiT's convolutions with jtl.Checkpoints"
        )


def _any(patterns: Any, path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def _table(pretrained: Pretrained) -> list[Rule]:
    known = tables(FAMILIES[pretrained.config.model_type], pretrained.config)
    if "transformers" not in known:
        raise ValueError(f"transformers has no network of the family {pretrained.config.model_type!r}")
    return list(known["transformers"])


def _path(rules: Rules, name: str, given: str, params: Mapping[str, Any]) -> tuple[str, Rule]:
    found = rules.first(name)
    if found is None or not found[1]:
        raise ValueError(f"{given}: the network has no parameter {name!r} by transformers' names")
    rule, paths = found
    path, *others = paths
    if others:
        raise ValueError(f"{given}: adapts a layer that jtl keeps as {paths}; adapters of fused layers are not read")
    if path not in params:
        raise ValueError(f"{given}: leads to {path!r}, which the network lacks")
    return path, rule


def _adapter(
    config: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any], pretrained: Pretrained
) -> Adapter:
    kind, where = config.get("peft_type"), {module: re.escape(module) for module in found}
    used = {name: config[name] for name in _OTHERS if config.get(name) not in (None, False, "none", {}, [], 0.0)}
    if used and kind != "IA3":
        raise ValueError(f"{CONFIG}: sets {used}, which jtl does not read")
    if kind == "LORA":
        return lora(
            config["r"],
            tuple(where.values()),
            alpha=config["lora_alpha"],
            rank_stabilised=bool(config.get("use_rslora")),
            dropout=config.get("lora_dropout", 0.0),
            magnitude=bool(config.get("use_dora")),
        )
    if kind == "VERA":
        if shared.keys() != {"a", "b"}:
            raise ValueError(f"{WEIGHTS}: lacks vera_A or vera_B; save VeRA with save_projection=True")
        return vera(tuple(where.values()), Projections(**shared), initial=config.get("d_initial") or 0.1)
    if kind == "OFT":
        if "use_cayley_neumann" not in config:
            raise ValueError(f"{CONFIG}: does not set use_cayley_neumann; an older PEFT computed OFT in another way")
        entries = {part["q"].shape[1] for part in found.values() if "q" in part}
        if len(entries) != 1:
            raise ValueError(
                f"{WEIGHTS}: its modules have blocks of several sizes, with {sorted(entries)} entries each"
            )
        block = round((1 + (1 + 8 * entries.pop()) ** 0.5) / 2)
        terms = config.get("num_cayley_neumann_terms", 5) if config["use_cayley_neumann"] else None
        return oft(tuple(where.values()), block, terms=terms)
    if kind == "IA3":
        before = {module for module in where if _is_input(config, module, pretrained)}
        return ia3(
            tuple(where[m] for m in where if m not in before), inputs=tuple(where[m] for m in where if m in before)
        )
    raise ValueError(f"{CONFIG}: peft_type={kind!r}; read are 'LORA' (with rsLoRA and DoRA), 'VERA', 'OFT', 'IA3'")


def _is_input(config: Mapping[str, Any], module: str, pretrained: Pretrained) -> bool:
    path = f"backbone/{module}/kernel"
    kernel = flatten(pretrained.variables.params)[path]
    name = next(iter(export(unflatten({path: kernel}), _table(pretrained)))).removesuffix(".weight")
    said = config.get("feedforward_modules") or ()
    if isinstance(said, str):
        return re.fullmatch(said, name) is not None
    return any(name == end or name.endswith(f".{end}") for end in said)
