"""Adapters in PEFT's files: `adapter_config.json` and `adapter_model.safetensors`."""

import json
import logging
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jtl.model import Model, Variables
from jtl.params import flatten, unflatten
from jtl.paths import local
from jtl.peft.attach import Adapter, attach
from jtl.peft.file_names import CONFIG, ENDINGS, PREFIX, SHARED, WEIGHTS, check_names, table_of
from jtl.peft.file_reading import Part, adapter_of, own_leaves, parts_of
from jtl.peft.file_writing import changed, unquantised, written
from jtl.peft.pissa_files import beside_the_pretrained
from jtl.peft.prompt_files import KINDS, NAME, read_prompts, write_prompts
from jtl.pretrained.head import WORD, read_of, with_reads
from jtl.pretrained.load import Pretrained
from jtl.weights.formats.json import read_json
from jtl.weights.formats.safetensors import read_safetensors
from jtl.weights.mapping.export import export
from jtl.weights.mapping.rules import Rules

log = logging.getLogger("jtl.peft")


class Loaded(NamedTuple):
    """A network with the adapters from a file.

    Args:
      network: the backbone with adapters, and the head.
      variables: its variables; the head is the file's if it has one.
      adapter: the attached adapter, for `merge` and `save`.
    """

    network: Model
    variables: Variables
    adapter: Adapter


def load(directory: str | Path, pretrained: Pretrained) -> Loaded:
    """Loads an adapter from a PEFT folder onto the network that it was trained on, without torch.

    LoRA, rsLoRA, DoRA, AdaLoRA, LoHa, LoKr, VeRA, OFT, FourierFT, HRA, IA3, prompts and prefixes are read. A layer that
    is several layers in jtl, such as GPT-2's `c_attn` or timm's `qkv`, has an adapter at each of them: its values for
    the input are copied, those for the outputs are split. LoKr, FourierFT and PiSSA cannot be split. AdaLoRA's modules
    have the ranks that are left, and the settings of its budget are not read. A PiSSA file
    (`init_lora_weights="pissa"`) changes the kernels that it adapts, as in PEFT: its initial product is subtracted from
    them again.

    Args:
      directory: holds `adapter_config.json` and `adapter_model.safetensors`; `~` is the home folder.
      pretrained: the result of `jtl.load`; the file's names are those of transformers' network, or of timm's.

    Raises:
      ValueError: for another kind of adapter, an entry of the config that jtl does not read, a tensor whose name or
        shape does not fit the network, NaN, LoKr, FourierFT or PiSSA of a layer that is several layers in jtl, an
        initialisation that changed the base in another way, such as PiSSA's fast one, VeRA saved without its random
        matrices (`save_projection=False`), which only torch could draw, and the address of an object store.
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
    folder = local(directory, "directory")
    config = read_json(folder / CONFIG, dict)
    if config is None:
        raise ValueError(f"{folder / CONFIG}: there is no such file")
    tensors = dict(read_safetensors(folder / WEIGHTS))
    whole, params = {}, flatten(pretrained.variables.params)
    if config.get("peft_type") in KINDS:
        if NAME not in tensors:
            raise ValueError(f"{folder / WEIGHTS}: has no tensor {NAME!r}")
        adapter, made = read_prompts(config, tensors.pop(NAME), pretrained)
        leaves = {f"backbone/{path}": leaf for path, leaf in made.items()}
        rules, prefix = Rules(table_of(pretrained)), "base_model."
        for name, tensor in tensors.items():
            whole |= own_leaves(rules, name.removeprefix(prefix), name, tensor, params)
    else:
        parts: list[Part] = []
        shared = {}
        rules = Rules(table_of(pretrained, list(tensors)))
        for name, tensor in tensors.items():
            ending = next((e for e in ENDINGS if name.endswith(f".{e}")), None)
            if name in SHARED:
                shared[SHARED[name]] = np.asarray(tensor).T
            elif ending is None:
                whole |= own_leaves(rules, name.removeprefix(PREFIX), name, tensor, params)
            else:
                parts += parts_of(rules, config, name, ending, tensor, params, pretrained)
        if not parts:
            raise ValueError(f"{folder / WEIGHTS}: has no tensor that ends in one of {tuple(ENDINGS)}")
        adapter = adapter_of(config, parts, shared)
        leaves = {f"backbone/adapter/{part.module}/{part.leaf}": part.value for part in parts}
    net, variables = attach(pretrained.network, pretrained.variables, adapter, jax.random.key(0))
    leaves |= whole
    flat = flatten(variables.params)
    for path, leaf in leaves.items():
        if path not in flat or flat[path].shape != leaf.shape:
            wanted = flat[path].shape if path in flat else "no such parameter"
            raise ValueError(f"{folder / WEIGHTS}: {path} is {leaf.shape}; the network has {wanted}")
    missing = sorted(path for path in flat if path.startswith("backbone/adapter/") and path not in leaves)
    if missing:
        raise ValueError(f"{folder / WEIGHTS}: lacks {missing}")
    bad = sorted(path for path, leaf in leaves.items() if not np.isfinite(np.asarray(leaf, np.float32)).all())
    if bad:
        raise ValueError(f"{folder / WEIGHTS}: holds NaN or infinity in {bad[0]}")
    flat |= {path: leaf.astype(flat[path].dtype) for path, leaf in leaves.items()}
    return Loaded(net, variables._replace(params=unflatten(flat)), adapter)


def save(directory: str | Path, pretrained: Pretrained, variables: Variables, adapter: Adapter) -> None:
    """Writes the adapters without the base, as PEFT does; `PeftModel.from_pretrained` reads them.

    The names are those of transformers' classifier, or of its language model if there is no head, and timm's if the
    network's file had them. For a layer that is several layers in jtl, LoRA and LoHa are written with the sum of their
    ranks if their A differ. Layers whose rank or alpha differs from that of most layers are listed in `rank_pattern`
    and `alpha_pattern`. A head that differs from that of `pretrained` is written too (`modules_to_save`), and with
    prompts every head, because PEFT reads no prompt of a classifier without it. PEFT beside transformers or timm gives
    a written head the features that their classifier reads; if jtl's head reads others, as with
    `jtl.load(..., reads="mean")`, the logger "jtl.peft" warns. PiSSA is written as LoRA of twice its rank. AdaLoRA is
    written with all directions, unless `jtl.peft.pruned` removed some, and without the settings of a budget, which PEFT
    needs only to train it. A base that `jtl.peft.quantise` made stands for that of `pretrained`, in whose place the
    file is read.

    Args:
      directory: created if necessary; existing files of these names are overwritten.
      pretrained: the network without adapters.
      variables: variables of the network with adapters.
      adapter: the adapter that was attached.

    Raises:
      ValueError: for an adapter without a PEFT counterpart, other parameters of the backbone that differ from those of
        `pretrained`, or from what PiSSA left of them, and would be lost, a network that has neither a head nor logits,
        adapters of one PEFT layer that differ although PEFT has one value for all, such as OFT's, and the address of an
        object store.

    Example:
      >>> import jtl
      >>> jtl.peft.save("adapter", pretrained, variables, jtl.peft.lora(8, (".*/query",)))  # doctest: +SKIP
    """
    from safetensors.numpy import save_file

    folder = local(directory, "directory")
    if not adapter.config:
        raise ValueError("this adapter has no counterpart in PEFT; save its parameters with jtl.Checkpoints")
    check_names(pretrained)
    if adapter.rest is not None:
        variables = beside_the_pretrained(adapter, pretrained, variables)
    variables = unquantised(pretrained, variables)
    if lost := changed(pretrained, variables, "backbone"):
        raise ValueError(
            f"{lost[0]!r} and {len(lost) - 1} more parameters beside the adapters are not those of the pretrained"
            " network, and PEFT's files hold adapters and a head alone: save all by jtl.save(folder, pretrained,"
            " jtl.peft.merge(variables, adapter)), or with jtl.Checkpoints"
        )
    if adapter.config["peft_type"] in KINDS:
        config, tensors = write_prompts(adapter, variables.params, pretrained, table_of(pretrained))
    else:
        config, tensors = written(adapter, pretrained, variables.params["backbone"])
        if changed(pretrained, variables, "head"):
            head = export({"head": variables.params["head"]}, table_of(pretrained))
            tensors |= {f"{PREFIX}{name}": np.ascontiguousarray(value) for name, value in head.items()}
            config["modules_to_save"] = sorted({name.rpartition(".")[0] for name in head})
    said = with_reads(pretrained.config, pretrained.head.reads)
    if "modules_to_save" in config and WORD in said.extra:
        log.warning(
            "%s: the head reads %s, which PEFT's files cannot say: only jtl.peft.load with the same reads= predicts as"
            " this network does; PEFT gives the head other features",
            folder,
            read_of(said).names,
        )
    text = json.dumps(config, indent=2, sort_keys=True, default=np.generic.item)  # ranks may be NumPy's
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(text)
