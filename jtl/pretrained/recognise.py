"""Recognises the network of a file, and its naming scheme."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
"""What tells the network: OpenCLIP's own words serve where there are no others."""

LOOKED, DEPTH, PREFIXES = 2000, 4, 40  # names, dots of each and beginnings that are looked at
_SAME = {"xlm-roberta": "roberta", "camembert": "roberta"}  # network and names alike, but for the usual vocabulary


class Found(NamedTuple):
    """A family, the entries of a config that are known so far, and what comes with the weights."""

    family: Family
    entries: Mapping[str, Any]
    preprocessing: Preprocessing | Waves | LogMel | None
    labels: tuple[str, ...] | None


def recognise(folder: Path | None, arch: str | Mapping[str, Any] | None) -> Found:
    """The family and the measures.

    Args:
      folder: may hold `config.json`, of transformers or timm, and `preprocessor_config.json` or
        `processor_config.json`; or OpenCLIP's `open_clip_config.json`.
      arch: a name of timm or torchvision, or a mapping as such a `config.json`; it goes before the folder's.

    Raises:
      ValueError: where nothing says which network it is, or something says one that jtl does not know.
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
    """Says what to give where weights are named by their network alone, as timm's `create_model` takes them.

    Raises:
      FileNotFoundError: for a name of a network that is no path.
    """
    name = str(source)
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII) or Path(name).exists():
        return
    if Path(name).suffix.lower() in (*SUFFIXES, ".h5", ".onnx", ".msgpack"):  # a file that is not there
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
    """Says what a folder of PEFT is, which holds adapters and no network.

    Raises:
      ValueError: naming the network that it is of, and what reads it.
    """
    if not path.is_dir() or any((path / name).exists() for name in NAMES):
        return
    told = read_json(path / ADAPTER, dict)
    if told is not None:
        base = told.get("base_model_name_or_path")
        named = f", {show(base)}," if base else ""
        raise ValueError(
            f"{path} holds a PEFT adapter ({show(told.get('peft_type'))}) and no network: load the network that it was"
            f" trained on{named} by jtl.load, and put the adapter on it by jtl.peft.load"
        )


def refuse_quantised(config: Mapping[str, Any]) -> None:
    """Says of a config that its weights are integers or narrow floats with scales beside them, which are not read.

    Raises:
      ValueError: naming the method.
    """
    told = config.get("quantization_config")
    if told:
        method = told.get("quant_method") if isinstance(told, Mapping) else told
        raise ValueError(
            f"the config has a quantization_config of quant_method={show(str(method))}: quantised weights are not read;"
            " give those from before they were quantised"
        )


def refuse_adapted(path: Path, names: Sequence[str]) -> None:
    """Says what to do with a network that has adapters of `jtl.peft` beside its modules, as the checkpoints of a run.

    Without them its modules are those before the run.

    Args:
      path: of the weights.
      names: of the tensors that are to be read.

    Raises:
      ValueError: where an adapter is among them.
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
    """The description of a network in a folder; None where there is none."""
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
    # Where a class has no name, or one is of no class, no name can be trusted to be the right class's.
    labels = tuple(numbers[i] for i in range(len(names))) if numbers.keys() == set(range(len(names))) else ()
    found = None if inputs is None else preprocessing_of(inputs, kind)
    return Found(FAMILIES[kind], config, found, labels or None)


def of_processor(folder: Path) -> dict[str, Any] | None:
    """What images or sounds go through by the file that has the tokenizer's settings too; it goes before their own."""
    path = folder / "processor_config.json"
    both = read_json(path, dict) or {}
    for name in ("image_processor", "feature_extractor"):
        if name in both:
            if not isinstance(both[name], dict):
                raise ValueError(f"{path}: {name}={show(str(both[name]))}: give names and values")
            return both[name]
    return None


def preprocessing_of(config: Mapping[str, Any], kind: str) -> Preprocessing | Waves | LogMel:
    """What a `preprocessor_config.json`, or such a part of another file, says for a network of `model_type` `kind`."""
    # Some files of networks of sounds do not name their feature extractor, and some not their sampling rate.
    if "sampling_rate" in config or config.get("feature_extractor_type") in audio_spec.EXTRACTORS:
        return audio_spec.from_transformers(config)
    return image.from_transformers(config, kind)


def _timm(config: Mapping[str, Any]) -> Found:
    whole = config["architecture"]
    names = dict.fromkeys((whole, whole.split(".")[0]))  # timm's tag after the dot names the weights; others have none
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
            made = {**made, "architecture": name, "model_args": dict(changes)}  # by which `save` names it
            return Found(family, made, images, None if labels is None else tuple(map(str, labels)))
    raise ValueError(f"arch={show(whole)} is not known{_near(names)}; `jtl models` lists all, as jtl models 'resnet*'")


_POOLS: dict[str, str] = dict.fromkeys(("vit", "deit", "deit3", "timm_clip"), "token")
_FREELY = {"dinov2", "dinov2_with_registers"}  # whose config has a pooling


def _pool(kind: str, name: str) -> str:
    """The word of timm for the pooling of a network."""
    if kind == "timm_siglip":
        return "avg" if "_gap_" in name else "map"
    return _POOLS.get(kind, "avg")


def _check_pool(kind: str, name: str, config: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Refuses another pooling than the network's own: its head would see other features, without an error."""
    own = args.get("global_pool") or "token" if kind in _FREELY else _pool(kind, name)
    for where, given in (("", config), ("model_args ", args)):
        pool = given.get("global_pool") or own
        if pool != own:
            raise ValueError(f"{where}global_pool={show(pool)}: of a {kind} only {show(own)} is read")


def _changes(family: Family, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The `model_args` that make another network; timm's `save_for_hf` writes what does not, too."""
    kept = dict(args)
    if family.config.model_type not in _FREELY:
        kept.pop("global_pool", None)
    classes = kept.pop("num_classes", 0)  # the file's head tells
    if type(classes) is not int or classes < 0:
        raise ValueError(f"model_args num_classes={show(classes)}: give a number of classes")
    size = kept.get("img_size")
    if isinstance(size, (list, tuple)):
        if len(size) != 2 or size[0] != size[1]:
            raise ValueError(f"model_args img_size={show(str(size))}: only squares are read, as 224 or [224, 224]")
        kept["img_size"] = size[0]
    if type(kept.get("in_chans")) is int and kept["in_chans"] == 3:
        kept.pop("in_chans")  # as every network has it, of families without the word too
    return kept


def naming(names: Iterable[str], tables: Mapping[str, Sequence[Rule]]) -> str:
    """The table whose rules match most of a file's names; the first of those that match as many.

    A classifier without the layer before it is of tokens or frames: it makes no file one with a head.

    Raises:
      WeightNameError: where none matches any.
    """
    names = list(names)
    found: dict[str, int] = {}
    for kind, table in tables.items():
        found[kind] = Rules(table).known(names)
        if found[kind] == len(names):
            break  # no other matches more
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
    """What most names that have a rule have before it, as "model.".

    None where fewer than half of those that begin so have one.
    """
    begun, names, rules = beginnings(names), names[:LOOKED], Rules(table)
    found = {
        prefix: rules.known(name.removeprefix(prefix) for name in names if name.startswith(prefix))
        for prefix, _ in begun.most_common(PREFIXES)
    }
    best = max(found, key=found.__getitem__, default="")
    return best if best and 2 * found[best] >= begun[best] else None


def beginnings(names: Sequence[str]) -> Counter[str]:
    """How many of the first names begin with "module.", "module.encoder.", ..."""
    return Counter(name[: dot.end()] for name in names[:LOOKED] for dot in islice(re.finditer(r"\.", name), DEPTH))


def _near(names: Iterable[str]) -> str:
    known = [name for family in FAMILIES.values() for name in presets(family)]
    found = dict.fromkeys(longer for name in names for longer in known if longer.endswith(f"_{name}"))
    found |= dict.fromkeys(near for name in names for near in get_close_matches(name, known, n=3))
    return f"; near are {', '.join(found)}" if found else ""
