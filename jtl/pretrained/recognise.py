"""Recognises a file's network and naming scheme."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from jtl import backbones
from jtl.backbones.family import HEADLESS
from jtl.backbones.registry import FAMILIES, Family
from jtl.preprocess import audio_spec, image
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import Preprocessing
from jtl.pretrained import open_clip
from jtl.pretrained.presets import presets
from jtl.pretrained.spare import between
from jtl.weights.formats.errors import WeightNameError, show
from jtl.weights.formats.hub import ADAPTER, OPEN_CLIP_FILE
from jtl.weights.formats.json import read_json
from jtl.weights.formats.orbax import holds
from jtl.weights.formats.read import NAMES, SUFFIXES
from jtl.weights.mapping.rules import Rule, Rules

CONFIGS = ("config.json", OPEN_CLIP_FILE)
"""The files that describe the network; OpenCLIP's own file is used only if there is no other."""

LOOKED, DEPTH, PREFIXES = 2000, 4, 40  # the most names, dots per name, and prefixes that are tried
_SAME = {"xlm-roberta": "roberta", "camembert": "roberta"}  # same network and names, but another default vocabulary


class Found(NamedTuple):
    """A family, the config entries that are known so far, and the preprocessing and labels of the weights."""

    family: Family
    entries: Mapping[str, Any]
    preprocessing: Preprocessing | Waves | LogMel | None
    labels: tuple[str, ...] | None


def recognise(folder: Path | None, arch: str | Mapping[str, Any] | None) -> Found:
    """Finds the family and the config of a network.

    Args:
      folder: may hold `config.json`, of transformers or timm, and `preprocessor_config.json` or
        `processor_config.json`; or OpenCLIP's `open_clip_config.json`.
      arch: a name of timm or torchvision, or a mapping like such a `config.json`; it overrides the folder's.

    Raises:
      ValueError: if nothing names the network, or its name is unknown to jtl.
    """
    if arch is None:
        config = None if folder is None else described(folder)
        if config is None:
            if folder is not None and holds(folder):
                raise ValueError(
                    f"{folder} holds checkpoints that do not say their network: give its variables by"
                    " jtl.Checkpoints(folder).variables(), or train with jtl.Checkpoints(folder, network=loaded)"
                )
            where = "a file alone" if folder is None else f"{folder} without a config.json"
            raise ValueError(
                f"{where} does not say which network it is; give arch=, as arch='resnet50': `jtl inspect` tells which"
                " fits a file, `jtl models` lists all"
            )
    else:
        config = {"architecture": arch} if isinstance(arch, str) else dict(arch)
    if "model_type" in config:
        return _transformers(config, folder)
    if isinstance(config.get("architecture"), str):
        return _timm(config)
    if "model_cfg" in config:
        made = open_clip.config_of(config)
        images = open_clip.preprocessing_of(config, made["vision_config"]["image_size"])
        return Found(FAMILIES["clip"], made, images, None)
    raise ValueError(f"the config {show(str(sorted(config)))} has neither 'model_type' nor 'architecture'")


def refuse_name(source: str | Path) -> None:
    """Refuses weights that are named by their network alone, as in timm's `create_model`.

    Raises:
      FileNotFoundError: for a name of a network that is not a path, naming a valid source.
    """
    name = str(source)
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII) or Path(name).exists():
        return
    if Path(name).suffix.lower() in (*SUFFIXES, ".h5", ".onnx", ".msgpack"):  # a missing file
        return
    tag = name.split(".")[0]
    family = next((family for family in FAMILIES.values() if family.named(tag, {}) is not None), None)
    if family is not None:
        timm = "timm" in family.tables(family.complete(family.named(tag, {}) or {})) and tag not in family.torchvision
        tagged = f"'timm:{name}' of the Hub" if "." in name else f"'timm:{name}.TAG' of the Hub, by timm's tag of them"
        hub = f", or {tagged}" if timm else ""
        random = f"; jtl.backbones.{tag}() is one of random weights" if hasattr(backbones, tag) else ""
        raise FileNotFoundError(
            f"{name!r} is the name of a network, and no file: give its weights, jtl.load('weights.pth', arch={tag!r})"
            f"{hub}{random}"
        )


def refuse_adapter(path: Path) -> None:
    """Refuses a folder of PEFT, which holds an adapter and not a network.

    Raises:
      ValueError: naming the network that the adapter belongs to, and the function that loads the adapter.
    """
    told = adapter(path)
    if told is not None:
        raise ValueError(told)


def adapter(path: Path) -> str | None:
    """Says that a folder of PEFT holds an adapter and how to load it; None for all else."""
    if not path.is_dir() or any((path / name).exists() for name in NAMES):
        return None
    told = read_json(path / ADAPTER, dict)
    if told is None:
        return None
    base = told.get("base_model_name_or_path")
    named = f", {show(base)}," if base else ""
    return (
        f"{path} holds a PEFT adapter ({show(told.get('peft_type'))}) and no network: load the network that it was"
        f" trained on{named} by jtl.load, and put the adapter on it by jtl.peft.load"
    )


def refuse_quantised(config: Mapping[str, Any]) -> None:
    """Refuses the config of quantised weights: integers or narrow floats with scales, which are not read.

    Raises:
      ValueError: naming the quantisation method.
    """
    told = config.get("quantization_config")
    if told:
        method = told.get("quant_method") if isinstance(told, Mapping) else told
        raise ValueError(
            f"the config has a quantization_config of quant_method={show(str(method))}: quantised weights are not read;"
            " give those from before they were quantised"
        )


def refuse_adapted(path: Path, names: Sequence[str]) -> None:
    """Refuses a network with adapters of `jtl.peft` in addition to its modules, such as the checkpoints of a run.

    Without the adapters, its modules have their values from before the run.

    Args:
      path: the weights.
      names: the names of the tensors to be read.

    Raises:
      ValueError: if an adapter is among them, naming a way to load it.
    """
    found = [name for name in names if name.startswith("backbone/adapter/")]
    if found:
        raise ValueError(
            f"{path} holds a network with an adapter of jtl.peft, {len(found)} parameters as {show(found[0])}, and does"
            " not say which adapter. In Python: loaded = jtl.load(WEIGHTS), what the run began with; merged ="
            " jtl.peft.merge(jtl.Checkpoints(FOLDER).variables(), adapter), the adapter that the run attached; then"
            " jtl.save(NEW, loaded, merged, format='jtl'), which is read. One that cannot be merged, as a prefix, runs"
            " with the network of jtl.peft.attach alone"
        )


def described(folder: Path) -> dict[str, Any] | None:
    """Reads the description of a network in a folder; returns None if there is none."""
    found = (read_json(folder / name, dict) for name in CONFIGS)
    return next((config for config in found if config is not None), None)


def _transformers(config: Mapping[str, Any], folder: Path | None) -> Found:
    kind = config["model_type"]
    if isinstance(kind, str) and kind in _SAME:
        kind = _SAME[kind]
        config = {"vocab_size": 30522, **config, "model_type": kind}
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"model_type={show(kind)} is not known; known are {', '.join(FAMILIES)}")
    inputs = None if folder is None else of_processor(folder) or read_json(folder / "preprocessor_config.json", dict)
    names = config.get("id2label") or {}
    if not isinstance(names, Mapping) or not all(re.fullmatch(r"\d{1,9}", str(k)) for k in names):
        raise ValueError(f"id2label={show(str(names))}: give numbers of classes and their names")
    numbers = {int(k): str(name) for k, name in names.items()}
    # If a class lacks a name, or a name lacks a class, none of the names can be trusted.
    labels = tuple(numbers[i] for i in range(len(names))) if numbers.keys() == set(range(len(names))) else ()
    found = None if inputs is None else preprocessing_of(inputs, kind)
    return Found(FAMILIES[kind], config, found, labels or None)


def of_processor(folder: Path) -> dict[str, Any] | None:
    """Returns the preprocessing in `processor_config.json`, which overrides `preprocessor_config.json`; else None."""
    path = folder / "processor_config.json"
    both = read_json(path, dict) or {}
    for name in ("image_processor", "feature_extractor"):
        if name in both:
            if not isinstance(both[name], dict):
                raise ValueError(f"{path}: {name}={show(str(both[name]))}: give names and values")
            return both[name]
    return None


def preprocessing_of(config: Mapping[str, Any], kind: str) -> Preprocessing | Waves | LogMel:
    """Reads a `preprocessor_config.json`, or the same part of another file, for a network of `model_type` `kind`."""
    # Of networks of sounds, some files lack the name of the feature extractor, and some the sampling rate.
    if "sampling_rate" in config or config.get("feature_extractor_type") in audio_spec.EXTRACTORS:
        return audio_spec.from_transformers(config)
    return image.from_transformers(config, kind)


def _timm(config: Mapping[str, Any]) -> Found:
    whole = config["architecture"]
    names = dict.fromkeys((whole, whole.split(".")[0]))  # timm's tag after the dot names the weights; others lack it
    given, args = config.get("pretrained_cfg") or {}, config.get("model_args") or {}
    for entry, value in (("pretrained_cfg", given), ("model_args", args)):
        if not isinstance(value, Mapping):
            raise ValueError(f"{entry}={show(value)}: give names and values")
    for family, name in ((family, name) for family in FAMILIES.values() for name in names):
        if family.named(name, {}) is None:
            continue
        _check_pool(family.config.model_type, name, config, args)
        changes = _changes(family, name, args)
        made = family.named(name, changes)
        if made is not None:
            usual = family.usual(name, family.complete(made))
            labels = config.get("label_names")
            if labels is not None and not isinstance(labels, (list, tuple)):
                raise ValueError(f"label_names={show(labels)}: give a list of names")
            images = image.from_timm(given, usual) if given and isinstance(usual, Preprocessing) else usual
            made = {**made, "architecture": name, "model_args": dict(changes)}  # so that `save` can name it
            return Found(family, made, images, None if labels is None else tuple(map(str, labels)))
    raise ValueError(f"arch={show(whole)} is not known{_near(names)}; `jtl models` lists all, as jtl models 'resnet*'")


_POOLS: dict[str, str] = dict.fromkeys(("vit", "deit", "deit3", "timm_clip"), "token")
_FREELY = {"dinov2", "dinov2_with_registers"}  # their config has an entry for the pooling


def _pool(kind: str, name: str) -> str:
    """Returns timm's name for the pooling of a network."""
    if kind == "timm_siglip":
        return "avg" if "_gap_" in name else "map"
    return _POOLS.get(kind, "avg")


def _check_pool(kind: str, name: str, config: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Refuses a pooling other than the network's own, because the head would silently see other features."""
    own = args.get("global_pool") or "token" if kind in _FREELY else _pool(kind, name)
    for where, given in (("", config), ("model_args ", args)):
        pool = given.get("global_pool") or own
        if pool != own:
            raise ValueError(f"{where}global_pool={show(pool)}: of a {kind} only {show(own)} is read")


def _changes(family: Family, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model_args` that change the network; timm's `save_for_hf` writes others too."""
    kept = dict(args)
    if family.config.model_type not in _FREELY:
        kept.pop("global_pool", None)
    classes = kept.pop("num_classes", 0)  # the file's head determines it
    if type(classes) is not int or classes < 0:
        raise ValueError(f"model_args num_classes={show(classes)}: give a number of classes")
    size = kept.get("img_size")
    if isinstance(size, (list, tuple)):
        if len(size) != 2 or size[0] != size[1]:
            raise ValueError(f"model_args img_size={show(str(size))}: only squares are read, as 224 or [224, 224]")
        kept["img_size"] = size[0]
    if type(kept.get("in_chans")) is int and kept["in_chans"] == 3:
        kept.pop("in_chans")  # the default of every network, also in families without this option
    return kept


def naming(names: Iterable[str], tables: Mapping[str, Sequence[Rule]]) -> str:
    """Returns the naming scheme whose rules match most of a file's names; the first if several match as many.

    A classifier without the layer before it is one of tokens or frames, and does not make a file one with a head.

    Raises:
      WeightNameError: if no rule matches any name.
    """
    names = list(names)
    found: dict[str, int] = {}
    for kind, table in tables.items():
        found[kind] = Rules(table).known(names)
        if found[kind] == len(names):
            break  # no other can match more
    kind = max(found, key=found.__getitem__)
    if not found[kind]:
        some = ", ".join(map(show, names[:5]))
        prefix = prefix_of(names, [rule for table in tables.values() for rule in table])
        hint = f"but with prefix={show(prefix)} they do" if prefix else "`jtl inspect` tells which network a file is of"
        raise WeightNameError(
            f"none of the {len(names)} tensors ({some}, ...) has a name of {', '.join(tables)}; {hint}"
        )
    return HEADLESS if kind == "transformers" and HEADLESS in tables and not any(between(names, tables)) else kind


def prefix_of(names: Sequence[str], table: Sequence[Rule]) -> str | None:
    """Returns the prefix, such as "model.", after which most names have a rule.

    Returns None if fewer than half of the names with that prefix have one.
    """
    begun, names, rules = beginnings(names), names[:LOOKED], Rules(table)
    found = {
        prefix: rules.known(name.removeprefix(prefix) for name in names if name.startswith(prefix))
        for prefix, _ in begun.most_common(PREFIXES)
    }
    best = max(found, key=found.__getitem__, default="")
    return best if best and 2 * found[best] >= begun[best] else None


def common_prefix(names: Collection[str], table: Sequence[Rule]) -> str:
    """Returns the prefix of all names, such as "module.", after which most have a rule; "" if as many have one with it.

    Example:
      >>> from jtl.pretrained.recognise import common_prefix
      >>> from jtl.weights.mapping.rules import Rule
      >>> common_prefix(["net.w", "net.b"], [Rule("w", "kernel"), Rule("b", "bias")])
      'net.'
    """
    found, rules = common_prefixes(names), Rules(table)
    if len(found) == 1:
        return ""
    return max(found, key=lambda prefix: rules.known(name.removeprefix(prefix) for name in names))


def common_prefixes(names: Collection[str]) -> list[str]:
    """Returns "" and the prefixes of all names, such as "module." and "module.net.", the shortest first."""
    first = min(names, default="")
    words = [first[: dot.end()] for dot in islice(re.finditer(r"\.", first), DEPTH)]
    return ["", *(word for word in words if all(name.startswith(word) for name in names))]


def beginnings(names: Sequence[str]) -> Counter[str]:
    """Counts how many of the first names begin with each prefix, such as "module." and "module.encoder."."""
    return Counter(name[: dot.end()] for name in names[:LOOKED] for dot in islice(re.finditer(r"\.", name), DEPTH))


def _near(names: Iterable[str]) -> str:
    known = [name for family in FAMILIES.values() for name in presets(family)]
    found = dict.fromkeys(longer for name in names for longer in known if longer.endswith(f"_{name}"))
    found |= dict.fromkeys(near for name in names for near in get_close_matches(name, known, n=3))
    return f"; near are {', '.join(found)}" if found else ""
