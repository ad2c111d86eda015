"""One small problem for each task: a network, rows that it can learn by heart, and what must come out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jtl import backbones, tasks
from jtl.metrics import mean_average_precision
from jtl.model import Model
from jtl.networks import network
from jtl.preprocess.answer_windows import Windows
from jtl.preprocess.characters import Alphabet
from jtl.preprocess.next_tokens import next_tokens
from jtl.reads import whole

ROWS = 8
TAGS = ("O", "B-a", "I-a")
LETTERS = Alphabet("abc")


class Case(NamedTuple):
    """A problem of eight rows.

    `below` is a loss that no constant output reaches. `floors` are metrics by name: at least so much, or, where the
    number is negative, at most its absolute value. `right(output)` is the share of decoded predictions that are right.
    """

    net: Model
    task: tasks.Task
    x: Any
    y: Any
    steps: int
    rate: float
    below: float
    floors: dict[str, float]
    right: Callable[[Any], float]


def encoder() -> Model:
    calm = {"dropout": 0.0, "attention_dropout": 0.0}
    return backbones.bert(backbones.Size(32, 1, 2, 64), vocabulary=40, positions=16, pooler=None, **calm)


def texts(tokens: int = 10) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    mask = np.arange(tokens)[None] < draw.integers(6, tokens + 1, ROWS)[:, None]
    ids = np.where(mask, draw.integers(3, 40, mask.shape), 0)
    ids[:, 0] = 1
    return {"ids": ids.astype(np.int32), "mask": mask}


def classification() -> Case:
    draw = np.random.default_rng(0)
    task = tasks.classification(("a", "b", "c", "d"))
    x, y = draw.normal(size=(ROWS, 5)).astype(np.float32), np.arange(ROWS) % 4
    net = network(backbone=backbones.mlp((32,)), head=task.head)
    # All classes are equally frequent: a constant output costs at least log 4 = 1.386.
    return Case(net, task, x, y, 80, 2e-2, 0.1, {"accuracy": 1.0}, _equal(task, ["abcd"[i] for i in y]))


def regression() -> Case:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, 5)).astype(np.float32)
    y = (1000 + 50 * draw.normal(size=(ROWS, 2))).astype(np.float32)
    task = tasks.regression(2, centre=y.mean(0), scale=y.std(0))
    net = network(backbone=backbones.mlp((32,)), head=task.head)

    def right(output: Any) -> float:
        return float((np.abs(task.decode(output) - y) < 10).mean())

    # In scaled units the best constant, the mean, costs 1; in units of y its root mean square error is about 50.
    return Case(net, task, x, y, 150, 2e-2, 0.02, {"rmse": -8.0, "mae": -6.0}, right)


def multi_label() -> Case:
    draw = np.random.default_rng(7)
    task = tasks.multi_label(("a", "b", "c"))
    x, y = draw.normal(size=(ROWS, 5)).astype(np.float32), draw.integers(0, 2, (ROWS, 3))
    wanted = [["abc"[i] for i in np.flatnonzero(row)] for row in y]
    y = np.where(draw.random(y.shape) < 0.1, -1, y)
    net = network(backbone=backbones.mlp((32,)), head=task.head)

    def right(output: Any) -> float:
        pairs = zip(task.decode(output), wanted, y, strict=True)
        return float(np.mean([found == own for found, own, row in pairs if row.min() >= 0]))

    # Labels are drawn evenly: a constant output costs about log 2 = 0.69.
    return Case(net, task, x, y, 80, 2e-2, 0.1, {"f1/macro": 0.99}, right)


def tagging() -> Case:
    draw = np.random.default_rng(1)
    task, x = tasks.tagging(TAGS), texts()
    words = np.where(x["mask"] & (draw.random(x["mask"].shape) < 0.8), 1, -1)
    words[:, 0] = -1
    words = np.where(words > 0, np.cumsum(words > 0, 1) - 1, -1)
    y = np.where(words >= 0, draw.integers(0, 3, words.shape), -100)
    net = network(backbone=encoder(), head=task.head)
    wanted = [[TAGS[i] for i in row[row >= 0]] for row in y]

    def right(output: Any) -> float:
        return float(np.mean([a == b for a, b in zip(task.decode(output, words), wanted, strict=True)]))

    # Tags are drawn uniformly: a constant output costs about log 3 = 1.1.
    return Case(net, task, x, y, 100, 1e-2, 0.15, {"accuracy": 0.95, "entity/f1": 0.9}, right)


def qa() -> Case:
    draw = np.random.default_rng(2)
    task, x = tasks.qa(longest=4), texts()
    place = np.arange(x["mask"].shape[1])[None]
    context = x["mask"] & (place >= 3)
    start = draw.integers(3, 5, ROWS).astype(np.int32)
    end = (start + np.arange(ROWS) % 2).astype(np.int32)
    y = {"start": start, "end": end, "allowed": context | (place == 0)}
    text = "abcdefghij"
    offsets = np.broadcast_to(np.stack([place[0], place[0] + 1], -1), (*context.shape, 2))
    windows = Windows(np.arange(ROWS), context, offsets, np.zeros(ROWS, np.int32), (text,) * ROWS)
    net = network(backbone=encoder(), head=task.head)
    wanted = [text[a : b + 1] for a, b in zip(start, end, strict=True)]

    def right(output: Any) -> float:
        return float(np.mean([a == b for a, b in zip(task.decode(output, windows), wanted, strict=True)]))

    # Starts are 3 or 4, ends 3 to 5: a constant output costs at least about log 2 = 0.69.
    return Case(net, task, x, y, 100, 1e-2, 0.15, {"exact": 0.99}, right)


def ctc() -> Case:
    convolutions = (backbones.Convolution(16, 10, 5), backbones.Convolution(16, 4, 4))
    calm = dict.fromkeys(("dropout", "first_dropout", "mlp_dropout", "attention_dropout"), 0.0)
    body = backbones.wav2vec2(
        backbones.Size(32, 1, 2, 64), convolutions=convolutions, norm="layer", positions=4, groups=2, **calm
    )
    task = tasks.ctc(LETTERS)
    said = ["abc", "ab", "ca", "bac", "cc", "aab", "b", "cba"]
    draw, wave = np.random.default_rng(3), np.zeros((ROWS, 320), np.float32)
    for row, word in zip(wave, said, strict=True):
        for i, letter in enumerate(word):
            row[100 * i : 100 * i + 80] = np.sin(np.arange(80) * (0.3, 0.8, 1.5)["abc".index(letter)])
    mask = np.arange(320)[None] < np.array([[100 * len(word)] for word in said])
    wave = np.where(mask, wave + 0.05 * draw.normal(size=wave.shape), 0).astype(np.float32)
    net = network(backbone=body, head=task.head)
    # A constant output gives all words of a length the same probability: five of three letters cost more than log 4.
    floors = {"cer": -0.05}
    return Case(net, task, {"wave": wave, "mask": mask}, LETTERS.ids(said), 150, 1e-2, 0.5, floors, _equal(task, said))


def segmentation() -> Case:
    draw = np.random.default_rng(4)
    task = tasks.segmentation(3, width=16, reads=whole("stage1", "stage3"))
    shade = np.kron(draw.integers(0, 3, (ROWS, 4, 4)), np.ones((1, 8, 8), int))
    x = (shade[..., None] + 0.1 * draw.normal(size=(ROWS, 32, 32, 3))).astype(np.float32)
    y = shade.copy()
    y[:, ::8] = 255
    net = network(backbone=backbones.conv4(8), head=task.head)

    def right(output: Any) -> float:
        return float((task.decode(output, (32, 32)) == shade)[y != 255].mean())

    # Classes are drawn uniformly: a constant output costs about log 3 = 1.1. A map at half the size blurs the borders.
    return Case(net, task, x, y, 150, 2e-2, 0.35, {"accuracy": 0.9, "iou": 0.8}, right)


def detection() -> Case:
    draw = np.random.default_rng(5)
    task = tasks.detection(2, stride=8, width=16, reads=whole("stage3"))
    x = 0.1 * draw.normal(size=(ROWS, 64, 64, 3)).astype(np.float32)
    boxes, classes = np.zeros((ROWS, 3, 4), np.float32), np.full((ROWS, 3), -1)
    for i in range(ROWS):
        for j in range(i % 3):  # some images have none
            side = draw.integers(12, 24, 2)
            low = np.array([draw.integers(0, 8) + 32 * j, draw.integers(0, 40)])
            boxes[i, j], classes[i, j] = [*low, *(low + side)], (i + j) % 2
            x[i, low[1] : low[1] + side[1], low[0] : low[0] + side[0]] += (1.0, -1.0)[(i + j) % 2]
    net = network(backbone=backbones.conv4(16), head=task.head)
    y = {"boxes": boxes, "classes": classes}

    def right(output: Any) -> float:
        return mean_average_precision(task.decode(output), tasks.true_boxes(y))["map"]

    # Boxes of a size that is drawn from 12 to 24 and a place drawn in 40 pixels: a constant box overlaps too little.
    return Case(net, task, x, y, 200, 1e-2, 0.5, {}, right)


def causal_lm() -> Case:
    draw = np.random.default_rng(6)
    task = tasks.causal_lm(24)
    ids = draw.integers(8, 24, (ROWS, 8)).astype(np.int32)
    ids[:, 0] = np.arange(ROWS)  # each text is known by its first token
    mask = np.arange(8)[None] < np.array([[8, 7, 6, 8, 8, 5, 8, 8]]).T
    calm = {"embedding_dropout": 0.0, "dropout": 0.0, "attention_dropout": 0.0}
    body = backbones.gpt2(backbones.Size(32, 1, 2, 64), vocabulary=24, positions=8, **calm)
    net = network(backbone=body, head=task.head)
    before = mask & (np.cumsum(mask, 1) < mask.sum(1, keepdims=True))
    last = ids[np.arange(ROWS), mask.sum(1) - 1]

    def right(output: Any) -> float:
        return float((task.decode(output, before) == last).mean())

    # Tokens are drawn from 16: a constant output costs about log 16 = 2.8.
    y = next_tokens(ids, mask)
    return Case(net, task, {"ids": ids, "mask": mask}, y, 120, 1e-2, 0.1, {"accuracy": 0.99, "perplexity": -1.2}, right)


def _equal(task: tasks.Task, wanted: list[str]) -> Callable[[Any], float]:
    return lambda output: float(np.mean([a == b for a, b in zip(task.decode(output), wanted, strict=True)]))


_ALL = (classification, multi_label, regression, tagging, qa, ctc, segmentation, detection, causal_lm)
CASES = {case.__name__: case for case in _ALL}
