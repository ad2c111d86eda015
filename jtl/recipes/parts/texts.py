"""A pretrained text encoder against a bag of words, both on the same few labelled examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
import optax

from jtl import data as jtl_data
from jtl import heads, losses, optim, report, rng
from jtl.backbones import identity
from jtl.extras import NotInstalled
from jtl.methods.finetune.features import extract
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.model import Model, Variables
from jtl.networks import network, part
from jtl.objective import Objective
from jtl.params import select
from jtl.preprocess import text
from jtl.pretrained.load import Pretrained, load
from jtl.recipes.parts import base
from jtl.recipes.parts.runs import TrainRun
from jtl.train.evaluate import evaluate
from jtl.train.state import variables
from jtl.train.step import make_step

FEATURE = "mean"
LEARNS = select("backbone/(?!words/).*", "head/.*")


class Rows(NamedTuple):
    """Texts and their labels [texts]."""

    texts: list[str]
    labels: np.ndarray


def read(path: Path) -> Rows:
    """Reads the lines `text<TAB>label` of a file.

    Raises:
      ValueError: for a line of another form, with its number.
    """
    texts, labels = [], []
    lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        given, tab, label = line.rpartition("\t")
        if not tab or not label.isdecimal():
            raise ValueError(f"{path}, line {number}: {line[:80]!r} is no text, a tab and a label")
        texts.append(given)
        labels.append(int(label))
    return Rows(texts, np.array(labels, np.int32))


def drawn(rows: Rows, size: int, seed: int) -> Rows:
    """Draws `size` of the rows at random.

    Raises:
      ValueError: if there are fewer.
    """
    if size > len(rows.texts):
        raise ValueError(f"{size} examples of {len(rows.texts)}: there are no more")
    chosen = np.random.default_rng(seed).permutation(len(rows.texts))[:size]
    return Rows([rows.texts[i] for i in chosen], rows.labels[chosen])


def bag_of_words(train: Rows, test: Rows) -> dict[str, float]:
    """Test accuracy of a logistic regression on TF-IDF of words and pairs of words, logarithmic in their counts.

    Raises:
      NotInstalled: a ModuleNotFoundError, if scikit-learn is missing, naming the extra that installs it.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError as error:
        raise NotInstalled("the bag of words is scikit-learn's: pip install 'jtl[demo]'", name="sklearn") from error
    # Anything between blanks is a word: "?" and "n't" help. C = 10 and 100 are equally good on both sets and beat 1.
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    found = LogisticRegression(C=30, max_iter=1000).fit(words.fit_transform(train.texts), train.labels)
    return {"accuracy": float(found.score(words.transform(test.texts), test.labels))}


def probe(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    *,
    steps: int = 300,
    decay: float = 0.05,
    loss: Callable = losses.cross_entropy,
    head: Model | None = None,
) -> Variables:
    """Trains a head on features computed once, by default a linear one: logistic regression with a penalty, on all rows
    in each step.
    """
    net, key = network(backbone=identity(), head=heads.linear(classes) if head is None else head), jax.random.key(0)
    tx = optax.chain(optax.add_decayed_weights(decay), optax.adam(optim.warmup_cosine(1e-2, steps)))
    step = make_step(finetune(net, loss), tx)
    start = step.init(net.init(key, x[:1]), key)

    def run(state: Any, batch: Any) -> Any:
        return jax.lax.scan(lambda state, _: (step(state, batch)[0], None), state, None, length=steps)[0]

    return variables(jax.jit(run)(start, {"x": x, "y": y}))


@dataclass(frozen=True)
class Texts:
    """The ways to classify texts, for several numbers of labelled examples; a recipe says which texts.

    Args:
      out: the folder for all output, with one folder per number of examples.
      data: the folder of real data; None for the environment's JTL_DATA.
      weights: the weights of the encoder, as for `jtl.load` and `jtl.preprocess.text.tokenizer`.
      seed: the root of all randomness, including the draw of examples.
      sizes: the numbers of examples to learn from.
      length: the number of tokens of a text; longer texts are cut.
      tune: fine-tuning of all parameters except word embeddings, from the head of feature extraction.
    """

    name: ClassVar[str]
    folder: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]

    out: Path = Path("runs/texts")
    data: Path | None = None
    weights: str = "hf:sentence-transformers/all-MiniLM-L6-v2"
    seed: int = 0
    sizes: tuple[int, ...] = (200, 1000)
    length: int = 48
    tune: TrainRun = field(default_factory=lambda: TrainRun(steps=120, batch=16, learning_rate=1e-4))

    def __post_init__(self) -> None:
        base.seeded(self.seed)
        if not self.sizes:
            raise ValueError("sizes=(): give at least one number of labelled examples")
        base.positive(length=self.length, **{f"sizes[{i}]": size for i, size in enumerate(self.sizes)})

    def train(self) -> dict[str, Any]:
        """Runs every way on every number of examples, each on the same examples, and prints test accuracies."""
        command, loaded = base.command(self.name, self), self._loaded()
        train, test = self._rows("train"), self._rows("test")
        print("features of the test set", flush=True)
        seen = self._seen(loaded, test)
        found: dict[str, dict[str, Any]] = {}
        for size in self.sizes:
            print(f"{size} examples", flush=True)
            few = drawn(train, size, self.seed)
            head = probe(self._seen(loaded, few), few.labels, len(self.classes))
            tuned = self._tune(loaded, head, few, command)
            found[f"{size} examples"] = {
                "bag of words": bag_of_words(few, test),
                "feature extraction": self._judge(evaluation(_on_features(loaded)), head, seen, test.labels),
                "fine-tuning": self.evaluate(tuned),
            }
        rows = [
            (size if i == 0 else "", way, f"{100 * value['accuracy']:.1f}")
            for size, ways in found.items()
            for i, (way, value) in enumerate(ways.items())
        ]
        title = f"{self.name.replace('_', ' ')}, test accuracy in percent"
        report.show(report.Table(title, ("learned from", "way", "accuracy"), rows))
        return {"failed": failures(found), **found}

    def network(self) -> base.Network:
        """The fine-tuned classifier."""
        loaded, tokens = self._loaded(), text.tokenizer(self.weights, length=self.length)

        def one(given: str) -> dict[str, np.ndarray]:
            return {name: rows[0] for name, rows in tokens([given]).items()}

        given = loaded.variables, loaded.network, LEARNS, self.tune.learning_rate, self.classes
        return base.Network(*given, one, texts=True, loaded=loaded)

    def evaluate(self, variables: Variables) -> dict[str, float]:
        """Loss and accuracy on the test set."""
        test, loaded = self._rows("test"), self._loaded()
        objective = evaluation(loaded.network)
        return self._judge(objective, variables, self._tokens(test.texts), test.labels)

    def _loaded(self) -> Pretrained:
        key = rng.stream(jax.random.key(self.seed), "weights")
        return load(self.weights, classes=self.classes, reads=FEATURE, reinit=("head/.*",), key=key)

    def _rows(self, split: str) -> Rows:
        return read(base.find(self.data, f"text/{self.folder}/{split}.tsv"))

    def _tokens(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        return text.tokenizer(self.weights, length=self.length)(texts)

    def _seen(self, loaded: Pretrained, rows: Rows) -> np.ndarray:
        data = jtl_data.arrays(self._tokens(rows.texts), rows.labels, batch_size=200, shuffle=False)
        batches = (data[step] for step in range(len(data)))
        return extract(loaded.backbone, part(loaded.variables, "backbone"), batches, loaded.head.reads)[0]

    def _judge(self, objective: Objective, variables: Variables, x: Any, y: np.ndarray) -> dict[str, float]:
        return evaluate(objective, variables, jtl_data.arrays(x, y, batch_size=200, shuffle=False))

    def _tune(self, loaded: Pretrained, head: Variables, few: Rows, command: str) -> Variables:
        start = Variables({**loaded.variables.params, "head": head.params["head"]}, loaded.variables.stats)
        options = {"batch_size": self.tune.batch, "seed": self.seed, "drop_last": True}
        data = jtl_data.arrays(self._tokens(few.texts), few.labels, **options)
        key = rng.stream(jax.random.key(self.seed), "run")
        objective, out = finetune(loaded.network), self.out / str(len(few.texts))
        return variables(self.tune.run(objective, start, data, out, text=command, key=key, trainable=LEARNS).state)


def _on_features(loaded: Pretrained) -> Model:
    """The head alone, as a network on precomputed features."""
    return network(backbone=identity(), head=heads.reading(loaded.head, "pooled"))


def failures(found: dict[str, dict[str, Any]]) -> list[str]:
    """The claims that do not hold: ways that do not beat the bag of words."""
    return [
        f"{way} does not beat a bag of words on {size}"
        for size, ways in found.items()
        for way, value in ways.items()
        if way != "bag of words" and not value["accuracy"] > ways["bag of words"]["accuracy"]
    ]
