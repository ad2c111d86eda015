"""Saves a network in files that PyTorch libraries load, or in jtl's own format."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import jax
import numpy as np

from jtl.backbones.family import PLAIN
from jtl.backbones.registry import FAMILIES, Family
from jtl.backbones.swin import names as swin
from jtl.backbones.vit import names_dinov2
from jtl.model import Variables
from jtl.paths import local
from jtl.preprocess import audio_spec
from jtl.preprocess.image import Preprocessing, to_timm, to_transformers
from jtl.preprocess.tokenizer_files import FILES, Vocabulary, copy
from jtl.pretrained.card import Card, readme
from jtl.pretrained.check import check_head, check_variables
from jtl.pretrained.head import WORD, read_of, with_reads
from jtl.pretrained.load import Pretrained
from jtl.pretrained.presets import OWN, architecture, tables
from jtl.pretrained.recognise import of_processor, preprocessing_of
from jtl.replace import CannotSwap, replace_file, replace_folder
from jtl.weights.formats.hub import PROMPTS
from jtl.weights.formats.orbax import newest
from jtl.weights.formats.read import NAMES
from jtl.weights.formats.sealed import checksum
from jtl.weights.mapping.export import export
from jtl.weights.mapping.rules import Rule

FORMATS = {"hf": "transformers", "timm": "timm", "torchvision": "torchvision", "jtl": OWN}
"""The naming scheme of each format."""
INPUTS = ("preprocessor_config.json", "processor_config.json")
"""The files in which `jtl.load` finds the preprocessing next to a config of transformers."""
WEIGHTS = "model.safetensors"
MODULES = ("modules.json", "sentence_bert_config.json", PROMPTS)
"""The files, in addition to its tokenizer's, that make a folder one of sentence-transformers."""


def save(
    directory: str | Path,
    pretrained: Pretrained,
    variables: Variables | None = None,
    *,
    format: Literal["hf", "timm", "torchvision", "jtl"] = "hf",
    card: Card | None = None,
) -> None:
    """Writes a network as a folder of `model.safetensors`, `config.json` and the files that came with the weights.

    These are the preprocessing of images and sounds, and the tokenizer's files, if they are known.

    `jtl.load(directory)` reads every format. Transformers' `from_pretrained`, timm's `create_model("local-dir:...")`,
    and torchvision's networks, by `load_state_dict`, each read their own.

    Args:
      directory: created if it does not exist. An earlier save in it is replaced atomically: a killed process leaves
        either the old or the new one (if the folder itself can be renamed, which a mount point cannot).
      pretrained: the network, as `jtl.load` returns it.
      variables: the variables after training; None for the loaded ones. If their head is not the one of `jtl.load`,
        give the head too, `pretrained._replace(head=...)`, because the features that it reads are part of the network.
      format: the naming scheme: transformers' ("hf"), timm's, torchvision's, or jtl's own paths, which any network has.
      card: the contents of `README.md`; None leaves an existing file as it is.

    Raises:
      ValueError: if the format is unknown; that library has no such network, or cannot leave the head out or express
        the features that it reads; or the labels do not fit the head.
      TypeError: if `variables` is not `Variables`, but for example a whole training state.
      WeightNameError: if the variables do not fit the network or its head, or a parameter has no name in that format.
      FileExistsError: if the folder holds other weights, which would be read instead of these, or another
        preprocessing; or it cannot be renamed, and another process saved into it at the same time.
      NotADirectoryError: if `directory` is a file.
      FileNotFoundError: if the tokenizer's files are no longer where they were loaded from.

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
      >>> loaded = jtl.load(folder)
      >>> jtl.save(folder / "again", loaded, format="hf")
      >>> jtl.load(folder / "again").naming
      'transformers'
    """
    folder = local(directory, "directory")
    kind = pretrained.config.model_type
    family = FAMILIES[kind]
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: give one of {tuple(FORMATS)}")
    pretrained = pretrained._replace(config=with_reads(pretrained.config, pretrained.head.reads))
    params, stats = check_variables(family, pretrained.config, pretrained.variables if variables is None else variables)
    bare = None if params["head"] else family.bare(pretrained.config) or _no_classes(family)
    known = tables(family, pretrained.config)
    if FORMATS[format] not in known or (format == "hf" and family.architecture is None and not bare):
        usable = [f for f, naming in FORMATS.items() if naming in known and (f != "hf" or family.architecture)]
        raise ValueError(f"{FORMATS[format]} has no network of the family {kind!r}; save it as one of {usable}")
    if not params["head"] and format != "jtl" and not (format == "hf" and bare):
        raise ValueError(
            "the parameters have no head; load with classes= and reinit=('head/.*',) for a new one, or save the "
            "backbone alone with format='jtl'"
        )
    if format != "jtl" and WORD in pretrained.config.extra:
        names = read_of(pretrained.config).names
        raise ValueError(f"the head reads {names}, which {FORMATS[format]} cannot say; save it with format='jtl'")
    labels = _labels(pretrained, params)
    check_head(family, pretrained, params)
    texts = _texts(format, family, pretrained, params, labels)
    table = known.get(PLAIN, known[FORMATS[format]]) if format == "hf" and bare else known[FORMATS[format]]
    if card is not None:
        library = {"hf": "transformers", "timm": "timm"}.get(format, "jtl")
        texts["README.md"] = readme(card, kind, library, labels)
    if format in ("hf", "jtl"):
        _not_another(folder, pretrained, texts)
    _write(folder, _tensors(params, stats, table, format), texts, pretrained.tokenizer)


def save_description(folder: Path, pretrained: Pretrained) -> None:
    """Writes a network's description next to a run's checkpoints, so that `jtl.load` of the folder needs nothing else.

    The description is the config with the names of the classes, the preprocessing, and the tokenizer's files.

    Args:
      folder: the folder of the checkpoints; an existing description of the same network is left as it is.
      pretrained: the network; only the shapes of its parameters are used.

    Raises:
      ValueError: if the folder holds the description of another network, the labels do not fit the head, or it is
        another head than a linear one, such as CoOp's.
    """
    family = FAMILIES[pretrained.config.model_type]
    pretrained = pretrained._replace(config=with_reads(pretrained.config, pretrained.head.reads))
    texts = _texts(
        "jtl", family, pretrained, pretrained.variables.params, _labels(pretrained, pretrained.variables.params)
    )
    for name, text in texts.items():
        if (folder / name).is_file() and (folder / name).read_text(encoding="utf-8") != text:
            raise ValueError(
                f"{folder / name} describes another network than network=, or other classes or preprocessing; give this"
                " run a folder of its own"
            )
    folder.mkdir(parents=True, exist_ok=True)
    if pretrained.tokenizer is not None and pretrained.tokenizer.folder.resolve() != folder.resolve():
        copy(pretrained.tokenizer, folder)
    for name, text in texts.items():
        if not (folder / name).is_file():
            replace_file(folder / name, text.encode())


def _no_classes(family: Family) -> str | None:
    """Returns transformers' image classifier, which replaces a layer of zero classes by the identity; else None."""
    kind = family.architecture or ""
    return kind if "ForImageClassification" in kind else None


def _tensors(params: Any, stats: Any, table: Sequence[Rule], format: str) -> dict[str, np.ndarray]:
    tensors = export({**names_dinov2.carried(params, table), "stats": stats}, table)
    if format != "jtl":
        # PyTorch's batch normalisation counts batches, but the count affects no result.
        names = [name for name in tensors if name.endswith("running_mean")]
        tensors |= {name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64) for name in names}
    if format == "torchvision":
        names = [name for name in tensors if name.endswith("relative_position_bias_table")]
        tensors |= {name.replace("bias_table", "index"): swin.index(tensors[name]) for name in names}
    return tensors


def _labels(pretrained: Pretrained, params: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels, head = pretrained.labels, params["head"]
    if head and "out" not in head:
        raise ValueError(
            f"a head of {sorted(head)}: jtl.load describes linear heads alone, of 'out'; leave network= out"
        )
    count = head["out"]["kernel"].shape[-1] if head else 0
    if labels is not None and count and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for a head of {count} classes: {labels[:5]}")
    return labels if count else None


def _texts(
    format: str, family: Family, pretrained: Pretrained, params: Mapping[str, Any], labels: tuple[str, ...] | None
) -> dict[str, str]:
    inputs = pretrained.preprocessing
    texts: dict[str, Any] = {}
    if format in ("timm", "torchvision"):
        texts["config.json"] = _of_timm(FORMATS[format], family, pretrained, params, labels)
    else:
        left = {"num_labels", "torch_dtype", "id2label", "label2id"}
        left |= {"architecture", "model_args"} if format == "hf" else set()  # timm's entries
        config = {k: v for k, v in pretrained.config.to_dict().items() if k not in left}
        count = params["head"]["out"]["kernel"].shape[-1] if params["head"] else 0
        if format == "hf":
            named = (family.classifier if params["head"] else family.bare)(pretrained.config)
            config |= {"architectures": [named or family.architecture]}  # with zero classes if there is no head
            labels = labels or tuple(f"LABEL_{i}" for i in range(count))
        if labels is not None:
            config["id2label"] = {str(i): label for i, label in enumerate(labels)}
            config["label2id"] = {label: i for i, label in enumerate(labels)}
        leaf = jax.tree.leaves(params)[0]
        texts["config.json"] = config | {"dtype": np.dtype(leaf.dtype).name}
        if inputs is not None:
            images = isinstance(inputs, Preprocessing)
            texts["preprocessor_config.json"] = (
                to_transformers(inputs) if images else audio_spec.to_transformers(inputs)
            )
    return {name: json.dumps(text, indent=2) + "\n" for name, text in texts.items()}


def _of_timm(
    naming: str, family: Family, pretrained: Pretrained, params: Mapping[str, Any], labels: tuple[str, ...] | None
) -> dict[str, Any]:
    name, changes = architecture(family, pretrained.config, naming)
    kernel, images = params["head"]["out"]["kernel"], pretrained.preprocessing
    channels = getattr(pretrained.config, "num_channels", 3)
    weights = to_timm(images, channels) if isinstance(images, Preprocessing) else {}
    return {
        "architecture": name,
        "num_classes": kernel.shape[-1],
        "num_features": kernel.shape[0],
        **({"model_args": changes} if changes else {}),
        **({"label_names": list(labels)} if labels is not None else {}),
        "pretrained_cfg": {"num_classes": kernel.shape[-1], **weights},
    }


def _not_another(folder: Path, pretrained: Pretrained, texts: dict[str, str]) -> None:
    stale = [name for name in INPUTS if (folder / name).exists()]
    if stale and INPUTS[0] not in texts:
        raise FileExistsError(
            f"{folder} holds {stale[0]}, which would be read with these weights, whose own preprocessing is not known;"
            " give another folder or remove it"
        )
    read_first = of_processor(folder)
    kind = pretrained.config.model_type
    if read_first is not None and preprocessing_of(read_first, kind) != pretrained.preprocessing:
        raise FileExistsError(
            f"{folder} holds {INPUTS[1]}, which would be read with these weights in place of their own preprocessing;"
            " give another folder or remove it"
        )


def _write(folder: Path, tensors: dict[str, np.ndarray], texts: dict[str, str], tokenizer: Vocabulary | None) -> None:
    from safetensors.numpy import save_file

    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder, or one to make")
    others = [name for name in NAMES if name != WEIGHTS and (folder / name).exists()]
    if others:
        raise FileExistsError(f"{folder} holds {', '.join(others)}, other weights; give another folder or remove them")
    if newest(folder) is not None:
        raise FileExistsError(f"{folder} holds checkpoints, which jtl.load would read; give another folder")
    copies = () if tokenizer is None else tokenizer.files
    stale = {*FILES, *MODULES} - set(copies) if copies else set()  # of an earlier save with another tokenizer

    def fill(place: Path) -> None:
        if tokenizer is not None:
            copy(tokenizer, place)
        for name, text in texts.items():
            (place / name).write_text(text, encoding="utf-8")
        save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})

    try:
        replace_folder(Path(os.path.realpath(folder)), fill, stale)
    except CannotSwap:
        _in_place(folder, fill, (*texts, *copies, WEIGHTS), stale)


def _in_place(folder: Path, fill: Callable[[Path], None], names: Sequence[str], stale: Collection[str]) -> None:
    """Saves file by file into a folder that cannot be renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    # Everything is first written to a temporary folder, so that a full disk leaves an earlier save as it was.
    apart = Path(mkdtemp(prefix=".partial-", dir=folder))
    try:
        fill(apart)
    except BaseException:
        shutil.rmtree(apart)
        raise
    _move(apart, folder, names)
    for name in stale:
        (folder / name).unlink(missing_ok=True)


def _move(apart: Path, folder: Path, names: Sequence[str]) -> None:
    """Removes earlier weights first and adds the new ones last, so that a killed process leaves no mix of both."""
    sums = {name: _sum(apart / name) for name in names}
    with suppress(FileNotFoundError):  # there were none, or another process takes them away
        os.replace(folder / WEIGHTS, apart / "earlier.safetensors")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        os.replace(apart / name, folder / name)
    shutil.rmtree(apart)
    # If two processes write files here in turns, the one that ends last sees files of the other. If both save the same
    # network, as on the hosts of a pod, that is no error.
    others = [name for name in names if _sum(folder / name) not in (sums[name], None)]
    if others:
        raise FileExistsError(
            f"another process saved into {folder} at the same time, and {', '.join(others)} there are not those of this"
            " network; save it again, each network into a folder of its own"
        )


def _sum(path: Path) -> int | None:
    """Returns a checksum of a file; None if it is gone."""
    try:
        return checksum(path)[1]
    except FileNotFoundError:
        return None
