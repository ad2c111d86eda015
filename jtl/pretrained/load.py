"""Loads pretrained weights."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jtl import heads
from jtl.backbones.family import HEADLESS
from jtl.backbones.registry import Config, Family
from jtl.heads import Reads
from jtl.model import Model, Variables
from jtl.networks import network
from jtl.params import flatten, unflatten
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import Preprocessing
from jtl.preprocess.tokenizer_files import Vocabulary, vocabulary
from jtl.pretrained.arguments import check_arguments
from jtl.pretrained.channels import rechannelled, repeat_channels, same_scale
from jtl.pretrained.depth import check_depth
from jtl.pretrained.folded import advise
from jtl.pretrained.head import head_of, read_of, with_reads
from jtl.pretrained.init_missing import drawn
from jtl.pretrained.outline import outline
from jtl.pretrained.positions import Kernel, interpolated
from jtl.pretrained.presets import OWN, tables
from jtl.pretrained.recognise import (
    CONFIGS,
    naming,
    recognise,
    refuse_adapted,
    refuse_adapter,
    refuse_name,
    refuse_quantised,
)
from jtl.pretrained.sharded import Where, places, put
from jtl.pretrained.spare import spare
from jtl.pretrained.truncate import shortened
from jtl.pretrained.wrappers import without_prefix
from jtl.typing import Key
from jtl.weights.formats.hub import locate
from jtl.weights.formats.read import read
from jtl.weights.mapping.cast import own
from jtl.weights.mapping.convert import convert, matching
from jtl.weights.mapping.coverage import Coverage
from jtl.weights.mapping.rules import Rule, Rules

POSITION = "backbone/position"


class Pretrained(NamedTuple):
    """A network with its weights, and everything needed to use it.

    Args:
      backbone: `backbone.apply(part(variables, "backbone"), x, train=...)` returns the features by name.
      head: the classifier on the pooled features: a linear layer, or the mean of the two of a distilled DeiT; the
        identity if the file has no head and none was requested.
      variables: parameters under `backbone/` and `head/`, and running statistics, as NumPy arrays or by `sharding`.
      preprocessing: the preprocessing of images or sounds; None if no file with the weights specifies it.
      labels: the names of the head's classes; None if they are unknown.
      config: the sizes and options of the network, under the names of transformers' `config.json`.
      naming: the naming scheme of the file.
      report: how every tensor of the file and every parameter was used.
      tokenizer: the files of the tokenizer, which `jtl.preprocess.text.tokenizer` reads; None if the weights came
        without one.
    """

    backbone: Model
    head: Model
    variables: Variables
    preprocessing: Preprocessing | Waves | LogMel | None
    labels: tuple[str, ...] | None
    config: Config
    naming: str
    report: Coverage
    tokenizer: Vocabulary | None = None

    def __repr__(self) -> str:
        """Returns one line, because the arrays would fill a book."""
        count = sum(leaf.size for leaf in jax.tree.leaves(self.variables.params))
        there = jax.tree.leaves(self.variables.params.get("head", {}))
        head = "a head whose classes have no names" if there else "no head"
        if self.labels is not None:
            head = f"classes {list(self.labels[:5])}" + (" …" if self.labels[5:] else "")
        return f"Pretrained({self.config.model_type}, {count:,} parameters, {head}, named as {self.naming})"

    @property
    def network(self) -> Model:
        """The backbone and the head as one model, which takes `variables`."""
        return network(backbone=self.backbone, head=self.head)._replace(classes=self.labels)


def load(
    source: str | Path,
    *,
    arch: str | Mapping[str, Any] | None = None,
    classes: int | np.integer | Sequence[str] | None = None,
    image: int | None = None,
    in_chans: int | None = None,
    stages: int | None = None,
    reads: Reads | None = None,
    within: str | None = None,
    prefix: str = "",
    reinit: Sequence[str] = (),
    unused: Sequence[str] = (),
    dtype: Any = jnp.float32,
    sharding: Where | None = None,
    key: Key | None = None,
) -> Pretrained:
    """Loads a pretrained network.

    Every tensor of the file and every parameter of the network is accounted for: loaded, re-initialised on
    request or unused on request; anything else raises. For a head with other classes, call
    `load(..., classes=("ants", "bees"), reinit=("head/.*",))`.

    Args:
      source: a weight file (safetensors, PyTorch's .pth/.pt/.th/.bin, .npz), a folder with such a file and its
        `config.json` (for OpenCLIP: `open_clip_config.json`), the folder of `jtl.Checkpoints`, `hf:org/name` or
        `timm:name` (from the Hub's local cache if possible; with `HF_HUB_OFFLINE` set, the internet is never used).
      arch: the network, if no `config.json` describes it: a name such as "resnet50", "vit_base_patch16_224" or
        "cifar_resnet20", or a mapping like such a `config.json`.
      classes: the number of classes, or their names; None keeps the file's, which may have no head. If a head is
        re-initialised with a number of classes, they have no names.
      image: side of the images in pixels, if it differs from the weights': `preprocessing` resizes and crops to it in
        proportion, and the position embeddings of a ViT are interpolated. A network without these, such as a
        convolutional one, takes images of any size as it is.
      in_chans: channels of the images, if they differ from the weights': the first kernel is summed for one channel,
        and otherwise repeated and rescaled.
      stages: read only the first stages, up to the feature `stageN`: blocks of a transformer, or stages of a ResNet,
        ConvNeXt or Swin. In the latter, the head and a last normalisation then have another width, and must be
        re-initialised by `reinit`.
      reads: the features that the head reads, if not the pooled ones, such as "mean" or ("stage3", "stage4"); or a
        `jtl.reads.Read`. A head of another width must be re-initialised by `reinit`.
      within: for a PyTorch file with several dicts of tensors, the path of the one to read, such as "teacher" or
        "ema/state_dict".
      prefix: the prefix of the names of the network's tensors, such as "model." in a LightningModule's checkpoint;
        other tensors are unused. Prefixes of wrappers (`_orig_mod.`, `_fsdp_wrapped_module.`, `module.`) may be
        omitted, and so may one that all tensors have, which the log "jtl.load" then names.
      reinit: regexes on paths of parameters that are re-initialised.
      unused: regexes on names of tensors in the file that are not read.
      dtype: the type of the parameters, whatever the file's.
      sharding: None for NumPy arrays in this process; `jtl.variables_sharding(mesh, rules)`, or any other function
        from the variables' shapes to their shardings, for jax arrays on the mesh: each device's slices are read
        directly from the file, and no process holds more than those of its devices. Or one `Sharding` for all.
      key: the key for re-initialised parameters; None for `jax.random.key(0)`.

    Raises:
      FileNotFoundError: if the path does not exist.
      WeightFileError: if the file is damaged, malicious or of another kind.
      WeightNameError: if the file and the network do not fit, listing all names.
      ValueError: if an argument is out of range; if the network is not named, unknown, or a variant that jtl does not
        have; or if its weights are quantised.
      TypeError: for `classes` or `stages` of another type.

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
      >>> loaded = jtl.load(folder, classes=("ants", "bees", "wasps"), reinit=("head/.*",))
      >>> loaded.network.apply(loaded.variables, np.zeros((4, 8, 8, 3)), train=False)[0].output.shape
      (4, 3)
    """
    classes = int(classes) if isinstance(classes, np.integer) else classes
    check_arguments(classes, image, stages, dtype)
    refuse_name(source)
    path = locate(source, needs=CONFIGS if arch is None else ())
    refuse_adapter(path)
    found = recognise(path if path.is_dir() else None, arch)
    refuse_quantised(found.entries)
    held = read(path, within=within)
    tensors = held.under(prefix)
    family = found.family
    described = family.complete(found.entries)
    check_depth(family, described, len(tensors))
    named = tables(family, described)
    tensors = without_prefix(tensors, [rule for table in named.values() for rule in table], source)
    left = matching(unused, tensors, "unused", "tensors of the file")
    kept = [name for name in tensors if name not in left]
    refuse_adapted(path, kept)
    kind = naming(kept, named)
    if kind == "transformers":
        headless, rest = spare(kept, named, found.entries, classes is None)
        kind, unused = HEADLESS if headless else kind, (*unused, *map(re.escape, rest))
    bare = _classes(None, tensors, named[kind]) is None
    if kind == HEADLESS and classes is not None:
        kind = "transformers"  # the layers that the file lacks are missed, unless they are re-initialised
    config = family.complete(family.headless(found.entries, kind) if bare else found.entries, kind)
    if reads is not None:
        config = with_reads(config, reads)
    # timm's names, and many files of networks of grey images, tell the scale of three channels for any number.
    images = same_scale(found.preprocessing, getattr(config, "num_channels", 3))
    table = tables(family, config)[kind]
    if stages is not None:
        config, table, rest = shortened(family, config, kind, stages, tensors)
        unused = (*unused, *map(re.escape, rest))
    if image is not None:
        config, images, table = _resized(image, family, config, images, table, kind)
    backbone = family.backbone(config)
    labels = found.labels if classes is None or isinstance(classes, int) else tuple(map(str, classes))
    count = _classes(classes, tensors, table)
    labels = labels if labels is not None and len(labels) == count else None
    if count is None and any(pattern.startswith("head/") for pattern in reinit):
        raise ValueError(f"reinit={reinit!r}: the file has no head, so give classes= too, a number or names of classes")
    head = heads.identity(reads=read_of(config)) if count is None else head_of(family, config, count)

    def sizes(config):
        found = outline(family, config, count)
        return {path: jax.ShapeDtypeStruct(shape, _dtype(path, dtype)) for path, shape in found.items()}

    wanted = final = sizes(config)
    if in_chans is not None:
        config = rechannelled(family, config, in_chans)
        images = same_scale(images, in_chans)
        final = sizes(config)
    where = None if sharding is None else places(sharding, final)

    def finished(path, array):
        if array.shape != final[path].shape:  # channels are summed before numbers are rounded to `dtype`, as in timm
            array = repeat_channels(array.astype(np.promote_types(array.dtype, np.float32)), final[path].shape[-2])
        return own(array, final[path].dtype) if where is None else put(array, final[path].dtype, where[path])

    finish = None if where is None and in_chans is None else finished
    tree, report = convert(tensors, table, unflatten(wanted), reinit=reinit, unused=unused, finish=finish)
    report.unused.extend(name for name in held if not name.startswith(prefix))
    if isinstance(classes, int) and "head/out/kernel" in report.reinit:
        labels = None  # new classes are others, even if as many as the file's
    leaves = flatten(tree)
    tree = unflatten(leaves | drawn(key, backbone, head, family.example(config), report.reinit, final, where))
    variables = Variables({"backbone": tree["backbone"], "head": tree.get("head", {})}, tree.get("stats", {}))
    if where is None:
        advise(source, variables)
    tokenizer = vocabulary(path) if path.is_dir() else None
    return Pretrained(backbone, head, variables, images, labels, config, kind, report, tokenizer)


def _resized(
    side: int, family: Family, config: Any, images: Any, table: Sequence[Rule], kind: str
) -> tuple[Config, Any, list[Rule]]:
    """Adapts everything that depends on the size of the images, as the file's own library does."""
    if hasattr(config, "vision_config"):
        raise ValueError(f"image={side}: this {config.model_type} has two towers, and keeps the size of its images")
    if not any(rule.path == POSITION for known in family.tables(config).values() for rule in known):
        example = family.example(config)
        if not (isinstance(example, jax.ShapeDtypeStruct) and len(example.shape) == 4):
            raise ValueError(f"image={side}: a {config.model_type} takes no images")
        if images is None:
            raise ValueError(
                f"image={side}: a {config.model_type} takes images of any size, and no preprocessing came with these"
                " weights that could be set to one; leave image= out"
            )
        return config, _scaled(images, side), list(table)
    count, kernel = side // config.patch_size, _kernel(kind, config)
    table = [Rule(POSITION, POSITION), *table] if kind == OWN else table  # jtl's table has one rule for all paths
    rules = [
        rule._replace(transform=interpolated(count, rule.transform, kernel)) if rule.path == POSITION else rule
        for rule in table
    ]
    images = _scaled(images, side) if isinstance(images, Preprocessing) else images
    return config.replace(image_size=side), images, rules


def _scaled(images: Preprocessing, side: int) -> Preprocessing:
    """Returns the preprocessing that resizes and crops to `side`, in proportion to the given one."""
    if images.size and images.crop:
        sizes = np.rint(np.multiply(images.size, side / images.crop)).astype(int).tolist()
        return images._replace(size=sizes if isinstance(sizes, int) else tuple(sizes), crop=side)
    return images._replace(size=(side, side), crop=None)


def _kernel(kind: str, config: Config) -> Kernel:
    """Returns the kernel by which a file's library resizes positions; timm's for jtl's files with a name of timm."""
    model = config.model_type
    if kind == "timm" or model == "dinov2_with_registers" or (kind == OWN and "architecture" in config.extra):
        return "antialiased"
    kernels: dict[tuple[str, str], Kernel] = {("vit", "original"): "linear", ("dinov2", "original"): "offset"}
    return kernels.get((model, kind), "bicubic")


def _classes(classes: int | Sequence[str] | None, tensors: Any, table: Sequence[Rule]) -> int | None:
    if classes is not None:
        return classes if isinstance(classes, int) else len(classes)
    rules = Rules([rule for rule in table if any(path.startswith("head/") for path in rule.paths)])
    found = [(name, *known) for name in tensors if (known := rules.first(name))]
    for leaf in ("head/out/bias", "head/out/kernel"):  # not every classifier has a bias
        for name, rule, paths in found:
            if leaf in paths:
                like = np.broadcast_to(np.float32(0), tensors.entry(name).shape)  # takes no memory
                return int(np.prod(np.shape(rule.transform.forward(like))[-1:]))
    return None


def _dtype(path: str, dtype: Any) -> Any:
    """Returns the type of a parameter; statistics are float32 at least, whatever the network computes in."""
    return jnp.promote_types(dtype, jnp.float32) if path.startswith("stats/") else jnp.dtype(dtype)
