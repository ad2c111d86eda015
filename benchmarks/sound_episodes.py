"""Spoken digits of new speakers from one or five clips each: meta-learning against a classifier and nearest means.

    python benchmarks/sound_episodes.py
    python benchmarks/sound_episodes.py --ways ANIL                (rows of other ways are kept)

Free Spoken Digit Dataset from `JTL_DATA`, six speakers in three pairs: for each pair a network learns from the four
other speakers, so no test speaker is known. Every way has a small network (conv4 of 32 filters on log-mel spectrograms)
and 150 Adam steps of 75 clips at 3e-3 with a cosine:

- not trained + nearest mean: random weights.
- classifier + nearest mean, + logistic regression: trained to classify the ten digits, then a head on frozen features.
- ProtoNet: trained on episodes of five digits of one speaker, with five clips as support and ten as queries.
- ANIL: likewise, with five second-order inner steps of the head, and the same steps in the test. Their rate is the
  better of 0.1 and 1 by the accuracy on the training episodes of one pair (0.42 and 0.85 after 60 steps).

There are 200 test episodes per speaker: five of the ten digits, one or five clips of each as support and ten others as
queries; every way sees the same ones, normalised by statistics of the training speakers. Nothing else was tuned.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
import optax

import jtl
from benchmarks import few, tables
from benchmarks.measure import environment
from jtl import learners
from jtl.recipes.parts import base, spoken_data
from jtl.train.state import variables

WAY, QUERY, RATE, INNER = 5, 10, 3e-3, 1.0
PAIRS = ((0, 1), (2, 3), (4, 5))
WAYS = (
    "not trained + nearest mean",
    "classifier + nearest mean",
    "classifier + logistic regression",
    "ProtoNet",
    "ANIL",
)


def network(classes: int) -> jtl.Model:
    """The network; its statistics are those of the last batch."""
    body = jtl.backbones.conv4(32, momentum=1.0, kernel_init=jax.nn.initializers.lecun_normal())
    return jtl.network(backbone=body, head=jtl.heads.linear(classes, zero_init=True))


def inner_loop(net: jtl.Model, order: int = 2) -> Any:
    """ANIL's inner loop: five steps of the head."""
    head = jtl.select("head/.*")
    return learners.adapt_to(jtl.finetune(net), jtl.fixed_rate(INNER), steps=5, order=order, adapted=head)


def train(way: str, clips: spoken_data.Clips, known: np.ndarray, steps: int) -> jtl.Variables:
    """Trains a way on the clips of `known` speakers; the statistics are those of 300 of these clips."""
    x, y, speaker = (a[known] for a in (clips.x, clips.y, clips.speaker))
    classifier = way.startswith(("not trained", "classifier"))
    net, key = network(10 if classifier else WAY), jax.random.key(0)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, max(steps, 1)))
    if classifier:
        data = jtl.data.arrays(x, y, batch_size=75, shuffle=True, drop_last=True)
        objective = jtl.finetune(net)
        start = net.init(key, x[:1])
    else:
        source = jtl.data.bank(x, speaker * 10 + y, groups=np.arange(60) // 10)
        sizes: dict[str, Any] = {"way": WAY, "shot": 5, "query": QUERY, "tasks": 1, "steps": steps}
        data = jtl.data.varied_episodes(source, **sizes, within_groups=True)
        adapt = learners.prototypes(net) if way == "ProtoNet" else inner_loop(net)
        objective = jtl.meta(adapt, jtl.finetune(net))
        start = objective.init(key, data[0])
    step = jtl.make_step(objective, optimizer)
    state, run = step.init(start, key), jax.jit(step.update, donate_argnums=0)
    for i in range(0 if way.startswith("not trained") else steps):
        state, _ = run(state, data[i % len(data)])
    learned = variables(state)
    some = x[np.random.default_rng(0).choice(len(x), 300, replace=False)]
    return learned._replace(stats=net.apply(learned, some, train=True, key=key)[1])


def episodes(y: np.ndarray, shot: int, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Support rows [5 shot] and query rows [50], class by class."""
    draw, found = np.random.default_rng(seed), []
    for _ in range(count):
        rows = [draw.permutation(np.flatnonzero(y == c))[: shot + QUERY] for c in draw.choice(10, WAY, replace=False)]
        found.append((np.concatenate([r[:shot] for r in rows]), np.concatenate([r[shot:] for r in rows])))
    return found


def accuracy(way: str, learned: jtl.Variables, z: np.ndarray, drawn: list, shot: int) -> float:
    """The mean over a speaker's episodes, in percent."""
    labels, true = np.repeat(np.arange(WAY), shot), np.repeat(np.arange(WAY), QUERY)
    if way == "ANIL":
        net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.heads.linear(WAY))
        start = jtl.Variables({"backbone": {}, "head": learned.params["head"]}, {})
        support, query = (np.stack([z[rows[i]] for rows in drawn]) for i in (0, 1))
        batch = {
            "support": {"x": support, "y": np.tile(labels, (len(drawn), 1))},
            "query": {"x": query, "y": np.tile(true, (len(drawn), 1))},
        }
        judge = {"accuracy": jtl.evaluation(net)}
        found = learners.over_episodes(inner_loop(net, order=1), judge, start, [batch])["accuracy"]
        return 100 * float(found.mean[-1])
    from threadpoolctl import threadpool_limits

    head = few.logistic if way.endswith("regression") else few.distance
    with threadpool_limits(1):  # synchronising threads costs more than a fit this small
        right = [(head(z[a], labels, WAY, z[b]).argmax(1) == true).mean() for a, b in drawn]
    return 100 * float(np.mean(right))


def main(given: list[str] | None = None) -> None:
    """Trains, evaluates and writes the results after each pair of speakers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "sound_episodes-cpu.json")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    asked = parser.parse_args(given)
    old = json.loads(asked.json.read_text()) if len(asked.ways) < len(WAYS) else {"rows": [], "minutes": 0}
    kept = {(row["shot"], row["head"]): row["each"] for row in old["rows"] if row["head"] not in asked.ways}
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())  # pairs share compiled programs
    where, began = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    clips = spoken_data.load(base.find(None, spoken_data.FILE))
    each: dict[tuple[int, str], list[float]] = {(shot, way): [] for shot in (1, 5) for way in asked.ways}
    for pair in PAIRS:
        known, made = ~np.isin(clips.speaker, pair), {}
        for way in asked.ways:
            kind = way.split(" + ")[0]
            if kind not in made:
                learned = made[kind] = train(way, clips, known, asked.steps)
                net = network(learned.params["head"]["out"]["bias"].size)
                run = jax.jit(lambda x, net=net, learned=learned: net.apply(learned, x, train=False)[0].read)
                made[f"{kind} reads"] = {s: np.asarray(run(clips.x[clips.speaker == s])) for s in pair}
            for speaker in pair:
                z, y = made[f"{kind} reads"][speaker], clips.y[clips.speaker == speaker]
                for shot in (1, 5):
                    drawn = episodes(y, shot, asked.episodes, speaker)
                    each[shot, way].append(accuracy(way, made[kind], z, drawn, shot))
            print(pair, way, {shot: np.round(each[shot, way][-2:], 1).tolist() for shot in (1, 5)}, flush=True)
        known_rows = {**kept, **each}
        rows = [
            {"way": WAY, "shot": shot, "head": way, "each": known_rows[shot, way]}
            for shot in (1, 5)
            for way in WAYS
            if (shot, way) in known_rows
        ]
        found = {"benchmark": "sound_episodes", "environment": where, "rows": rows}
        found["minutes"] = round(old["minutes"] + (time.perf_counter() - began) / 60, 1)
        if pair == PAIRS[-1] or not kept:
            tables.write(found, asked.json)


if __name__ == "__main__":
    main()
