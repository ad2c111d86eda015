"""The data, networks and ways of `finetuning.py`: CIFAR-100 on a ResNet-20, TREC's questions on MiniLM, digits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jtl
from jtl import finetuning, peft
from jtl.backbones.cifar_resnet.network import _Stage as Stage
from jtl.nn.transformer import Block
from jtl.ops import mean_of_tokens
from jtl.preprocess import text
from jtl.reads import whole
from jtl.recipes.parts import base, spoken_data
from jtl.recipes.parts.texts import FEATURE, read

SHOTS = (8, 16, 64)
ADAPTED = (r"head/.*", r"backbone/adapter/.*")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOW, MIDDLE, HIGH = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2)


class Way(NamedTuple):
    """One way to train.

    Args:
      net: the network.
      start: the initial variables; missing ones are initialised by the seed.
      objective: the objective that it minimises.
      rates: the first learning rates to try.
      trainable: regexes of the trained parameters.
      probed: whether it starts with the probe's head.
      related: whether the statistics hold Co-Tuning's relationship, which is computed from the training examples.
      paired: whether the batches are SetFit's pairs, and a logistic regression on the features is scored.
      features: if given, nothing is trained, and a logistic regression on these features of x is scored; `rates` are
        penalties.
    """

    net: jtl.Model
    start: jtl.Variables
    objective: jtl.Objective
    rates: tuple[float, ...]
    trainable: tuple[str, ...] = (r".*",)
    probed: bool = False
    related: bool = False
    paired: bool = False
    features: Callable[[Any], Any] | None = None


class Draw(NamedTuple):
    """Training examples for each number of labels per class, and test examples.

    `known` is the pretrained backbone, if each draw has its own.
    """

    train: dict[int, tuple[Any, np.ndarray]]
    held: tuple[Any, np.ndarray]
    known: jtl.Variables | None = None


class Task(NamedTuple):
    """A data set and a network: with a negative seed, `draw(seed)` holds out training examples to choose rates."""

    classes: int
    draw: Callable[[int], Draw]
    backbone: jtl.Model
    known: jtl.Variables
    feature: str
    ways: dict[str, Way]
    relationship: Callable[[Any, np.ndarray], Any] | None = None
    shots: tuple[int, ...] = SHOTS


class LastStage(nn.Module):
    """The last stage of a ResNet for small images, as ResNet-20, on the maps of the second stage."""

    blocks: int = 3

    @nn.compact
    def __call__(self, x: Any, train: bool) -> dict[str, Any]:
        y = Stage(self.blocks, 64, 2, 0.1, name="stage3")(x["stage2"], train)
        return {"pooled": y.mean((1, 2))}


class LastBlock(nn.Module):
    """The last block of MiniLM, on the tokens of the fifth block."""

    @nn.compact
    def __call__(self, x: Any, train: bool) -> dict[str, Any]:
        block = Block(12, 1536, 1e-12, 0.1, attention_dropout=0.1, post_norm=True, name="block6")
        return {FEATURE: mean_of_tokens(block(x["stage5"], train, x["mask"][:, None, None]), x["mask"])}


def images() -> Task:
    """CIFAR-100's classes, ten at a time, for a network that knows CIFAR-10."""
    file = base.find(None, "cifar_resnet/resnet20-12fca82f.th")
    known = jtl.load(file, arch="cifar_resnet20", classes=10, key=jax.random.key(0))
    normalise = jtl.data.augment.normalise(MEAN, STD)
    seen = jtl.preprocessed(known.backbone, normalise)
    files = np.load(base.find(None, "cifar100.npz"))
    known_data = np.load(base.find(None, "cifar10.npz"))

    def draw(seed: int) -> Draw:
        rng = np.random.default_rng(1000 + seed)
        classes = rng.permutation(100)[:10]
        rows = [rng.permutation(np.flatnonzero(files["y_train"] == c)) for c in classes]

        def some(split: str, index: list[np.ndarray]) -> tuple[Any, np.ndarray]:
            y = np.repeat(np.arange(10), [len(part) for part in index]).astype(np.int32)
            x = files[f"x_{split}"][np.concatenate(index)]
            return {"stage2": _below(known, seen, x, "stage2"), "image": x}, y

        train = _nested(*some("train", [part[: max(SHOTS)] for part in rows]), 10)
        if seed < 0:
            return Draw(train, some("train", [part[max(SHOTS) : max(SHOTS) + 30] for part in rows]))
        return Draw(train, some("test", [np.flatnonzero(files["y_test"] == c) for c in classes]))

    module = jtl.from_linen(LastStage())
    net, start = jtl.network(backbone=module, head=known.head), _upper(known, "stage3")
    ways = _whole(net, start, MIDDLE, "pooled")
    both = jtl.network(backbone=module, head=known.head, source=known.head)
    old = known.variables.params["head"]
    own, head, some = jtl.part(start, "backbone"), known.head, slice(0, 500)

    @jax.jit
    def logits(x: Any) -> Any:
        features = module.apply(own, x, train=False)[0]
        return head.apply(jtl.Variables(old, {}), head.reads(features, x), train=False)[0]

    z = logits({"stage2": _below(known, seen, known_data["x_test"][some], "stage2")})
    temperature = finetuning.calibrated_temperature(np.asarray(z), known_data["y_test"][some])

    def relationship(x: Any, y: np.ndarray) -> Any:
        return finetuning.category_relationship(np.asarray(logits(x)), y, classes=10, temperature=temperature)

    for name, weight in (("Co-Tuning", 2.3), ("Co-Tuning, weight 0.5", 0.5)):
        # Each run replaces the flat relationship by its own.
        term = finetuning.co_tuning(np.full((10, 10), 0.1), weight, temperature=temperature)
        ways[name] = Way(
            both,
            start._replace(params={**start.params, "source": old}),
            jtl.finetune(both, lambda z, y: jtl.losses.cross_entropy(z["head"], y), [term], metrics={}),
            MIDDLE,
            related=True,
        )
    convolutions = (r".*/conv[12]",)
    ways["LoRA"] = _adapter(net, start, HIGH, peft.lora(4, convolutions))
    ways["DoRA"] = _adapter(net, start, HIGH, peft.lora(4, convolutions, magnitude=True))
    ways["bottleneck"] = _adapter(net, start, HIGH, peft.bottleneck((r"stage3/block\d+",), width=64, inner=8))
    ways["IA3"] = _adapter(net, start, HIGH, peft.ia3(convolutions))
    empty = jtl.backbones.cifar_resnet(20)
    whole_net = jtl.network(
        backbone=jtl.preprocessed(empty, lambda key, x: normalise(key, x["image"])), head=known.head
    )
    ways["scratch, all stages"] = Way(whole_net, jtl.Variables({}, {}), jtl.finetune(whole_net), MIDDLE)
    return Task(10, draw, module, own, "pooled", ways, relationship)


def texts(folder: Path) -> Task:
    """TREC's types of questions, for a sentence encoder."""
    known = jtl.load(folder, classes=6, reads=FEATURE, reinit=("head/.*",), key=jax.random.key(0))
    tokens = text.tokenizer(folder, length=16)
    given = {split: read(base.find(None, f"text/trec/{split}.tsv")) for split in ("train", "test")}

    def some(split: str, index: np.ndarray) -> tuple[Any, np.ndarray]:
        x = tokens([given[split].texts[i] for i in index])
        return {"stage5": _below(known, known.backbone, x, "stage5"), "mask": x["mask"]}, given[split].labels[index]

    test = some("test", np.random.default_rng(0).permutation(len(given["test"].texts))[:250])

    def draw(seed: int) -> Draw:
        order = np.random.default_rng(1000 + seed).permutation(len(given["train"].texts))
        of = [order[given["train"].labels[order] == c] for c in range(6)]
        train = _nested(*some("train", np.concatenate([part[: max(SHOTS)] for part in of])), 6)
        held = some("train", np.concatenate([part[max(SHOTS) :][:40] for part in of])) if seed < 0 else test
        return Draw(train, held)

    module = jtl.from_linen(LastBlock())
    net, start = jtl.network(backbone=module, head=known.head), _upper(known, "block6")
    ways = _whole(net, start, LOW, FEATURE)
    queries = (r".*/attention/(query|value)",)
    ways["LoRA"] = _adapter(net, start, MIDDLE, peft.lora(8, queries))
    ways["DoRA"] = _adapter(net, start, MIDDLE, peft.lora(8, queries, magnitude=True))
    ways["bottleneck"] = _adapter(net, start, MIDDLE, peft.bottleneck((r".*/mlp",), width=384, inner=32))
    scales = peft.ia3((r".*/attention/(key|value)",), inputs=(r".*/mlp/down",))
    ways["IA3"] = _adapter(net, start, HIGH, scales)
    pairs = jtl.network(backbone=module)
    ways["SetFit"] = Way(pairs, start, finetuning.similar_pairs(module, feature=FEATURE), LOW, paired=True)
    ways["random last block"] = Way(net, jtl.Variables({}, {}), jtl.finetune(net), LOW)
    # In these two no trained part reads the last block's weights.
    ways["probe below the last block"] = ways["random last block"]._replace(
        rates=(0.1, 1.0, 10.0), features=jax.jit(lambda x: mean_of_tokens(x["stage5"], x["mask"]))
    )
    return Task(6, draw, module, jtl.part(start, "backbone"), FEATURE, ways)


def sounds(steps: int = 300) -> Task:
    """Spoken digits of three speakers, for a network that was pretrained on the other three in `steps` of 64 clips."""
    clips, shots = spoken_data.load(base.find(None, spoken_data.FILE)), (8, 16)
    backbone, head = jtl.backbones.conv4(32), jtl.heads.linear(10)
    net = jtl.network(backbone=backbone, head=head)
    step = jtl.make_step(jtl.finetune(net), optax.adam(optax.cosine_decay_schedule(3e-3, steps)))
    fresh = net.init(jax.random.key(0), clips.x[:1])

    @jax.jit
    def pretrained(x: Any, y: Any, key: Any) -> jtl.Variables:
        def body(state: Any, i: Any) -> tuple[Any, None]:
            rows, by = (jax.random.fold_in(key, 2 * i + j) for j in range(2))
            some = jax.random.randint(rows, (64,), 0, len(y))
            later = jax.random.randint(by, (64,), 0, 30)  # frames of 10 ms; those that wrap around are silence
            moved = jax.vmap(lambda picture, by: jnp.roll(picture, by, 0))(x[some], later)
            return step(state, {"x": moved, "y": y[some]})[0], None

        state = jax.lax.scan(body, step.init(fresh, key), jnp.arange(steps))[0]
        return jtl.part(jtl.variables(state), "backbone")

    def draw(seed: int) -> Draw:
        rng = np.random.default_rng(1000 + seed)
        new = np.isin(clips.speaker, rng.permutation(len(spoken_data.SPEAKERS))[:3])
        old = np.flatnonzero(~new & ~clips.test)
        known = pretrained(clips.x[old], clips.y[old], jax.random.key(1000 + seed))
        order = rng.permutation(np.flatnonzero(new & ~clips.test))
        of = [order[clips.y[order] == digit] for digit in range(10)]
        rows = np.concatenate([part[: max(shots)] for part in of])
        rest = np.concatenate([part[max(shots) :][:15] for part in of])
        held = rest if seed < 0 else np.flatnonzero(new & clips.test)
        train = _nested(clips.x[rows], clips.y[rows], 10, shots)
        return Draw(train, (clips.x[held], clips.y[held]), jax.tree.map(np.asarray, known))

    start = jtl.Variables({"backbone": fresh.params["backbone"]}, fresh.stats)  # each draw replaces it by its own
    ways = _whole(net, start, LOW, "pooled")
    convolutions = (r"stage[234]/conv",)
    ways["LoRA"] = _adapter(net, start, MIDDLE, peft.lora(4, convolutions))
    ways["DoRA"] = _adapter(net, start, MIDDLE, peft.lora(4, convolutions, magnitude=True))
    ways["bottleneck"] = _adapter(net, start, MIDDLE, peft.bottleneck((r"stage[234]",), width=32, inner=8))
    ways["IA3"] = _adapter(net, start, HIGH, peft.ia3(convolutions))
    ways["scratch"] = Way(net, jtl.Variables({}, {}), jtl.finetune(net), MIDDLE)
    return Task(10, draw, backbone, jtl.part(start, "backbone"), "pooled", ways, shots=shots)


def _whole(net: Any, start: Any, rates: tuple[float, ...], feature: str) -> dict[str, Way]:
    """Ways that train all of the last stage or block."""
    plain = jtl.finetune(net)
    return {
        "full": Way(net, start, plain, rates),
        "LP-FT": Way(net, start, plain, rates, probed=True),
        "L2-SP": Way(net, start, jtl.finetune(net, terms=[finetuning.l2_sp(0.01, head=0.01)]), rates),
        "BSS": Way(net, start, jtl.finetune(net, terms=[finetuning.bss(1e-3, feature=feature)]), rates),
    }


def _adapter(net: Any, start: Any, rates: tuple[float, ...], adapter: Any) -> Way:
    net, start = peft.attach(net, start, adapter, jax.random.key(2))
    return Way(net, start, jtl.finetune(net), rates, ADAPTED, probed=True)


def _upper(known: Any, name: str) -> jtl.Variables:
    """The loaded weights above the frozen part, without a head, which the seed draws."""
    own = jtl.part(known.variables, "backbone")
    stats = {"backbone": {name: own.stats[name]}} if name in own.stats else {}
    return jtl.Variables({"backbone": {name: own.params[name]}}, stats)


def _below(known: Any, backbone: jtl.Model, x: Any, name: str) -> np.ndarray:
    """The outputs of the frozen part, computed once."""
    count = len(jax.tree.leaves(x)[0])
    batches = [{"x": rows_of(x, slice(i, i + 50))} for i in range(0, count, 50)]
    return jtl.extract(backbone, jtl.part(known.variables, "backbone"), batches, whole(name))[0]


def _nested(x: Any, y: np.ndarray, classes: int, shots: tuple[int, ...] = SHOTS) -> dict[int, tuple[Any, np.ndarray]]:
    """The first examples of each class, so that a larger number of labels includes the smaller ones."""
    rows = {n: np.concatenate([np.flatnonzero(y == c)[:n] for c in range(classes)]) for n in shots}
    return {n: (rows_of(x, index), y[index]) for n, index in rows.items()}


def rows_of(x: Any, index: Any) -> Any:
    """The same rows of every array."""
    return jax.tree.map(lambda a: a[index], x)
