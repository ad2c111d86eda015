"""One run of an adaptation method, scored without labels every few steps, beside the accuracy on the target."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jtl
from jtl.command import adaptations
from jtl.selection import validators
from jtl.train.state import variables as variables_of

SCORES: dict[str, Callable[[Any], float]] = {
    "im": validators.information_maximisation,
    "bnm": validators.nuclear_norm,
}


class Domains(NamedTuple):
    """Arrays: the source with labels, the target's training rows (labels for the oracle alone), the target's test."""

    source: tuple[np.ndarray, np.ndarray]
    target: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


class Setting(NamedTuple):
    """Numbers of all runs of a benchmark; no target label chose one of them."""

    steps: int
    every: int
    batch: int
    rate: float
    scored: int
    shot_weight: float


class Runs:
    """Runs of all methods on one network; compiled programs are shared over seeds and pairs of domains.

    Args:
      net: the network.
      classes: of it.
      setting: of all runs.
    """

    def __init__(self, net: Any, classes: int, setting: Setting):
        self.net, self.classes, self.setting = net, classes, setting
        self.programs: dict[str, Any] = {}
        self.look = jax.jit(lambda v, x: net.apply(v, x, train=False)[0].output)

    def run(self, name: str, domains: Domains, seed: int, start: Any = None) -> tuple[dict[str, Any], Any]:
        """A row of results, and the last step's variables.

        Args:
          name: of `adaptations.NAMES`, or "oracle", which learns from the target's labels.
          domains: the data.
          seed: of the weights and of the batches.
          start: the source's variables, for the methods that begin with them.
        """
        began, key = time.perf_counter(), jax.random.key(seed)
        if name == "ada_bn":
            x = domains.target[0]
            at = np.random.default_rng(seed).permutation(len(x))[: 20 * self.setting.batch]
            batches = [x[i] for i in np.split(at, len(at) // self.setting.batch)] if len(at) else []
            variables = jtl.test_time.ada_bn(self.net, start, batches)
            looks = [{"step": 0, **self._scores(variables, domains)}]
        elif name == "shot":
            variables, looks = self._shot(domains, seed, key, start)
        else:
            variables, looks = self._train(name, domains, seed, key)
        return {
            "method": name,
            "seed": seed,
            "seconds": round(time.perf_counter() - began, 1),
            "looks": looks,
        }, variables

    def _train(self, name: str, domains: Domains, seed: int, key: Any) -> tuple[Any, list[dict[str, Any]]]:
        options = {"batch_size": self.setting.batch, "seed": seed, "drop_last": True}
        there = jtl.data.arrays(domains.target[0], **options)
        here = jtl.data.arrays(*(domains.target if name == "oracle" else domains.source), **options)
        data = jtl.data.pair(here, there)
        if name not in self.programs:
            made = adaptations.plan("source" if name == "oracle" else name, self.net, self.classes, self.setting.steps)
            tx = optax.adam(self.setting.rate)
            masks = [jtl.select(*group) for group in made.groups]
            step = jtl.make_step(made.objective, [tx] * len(masks), trainable=masks)
            self.programs[name] = adaptations.first(made.objective), step, jax.jit(step, donate_argnums=0)
        objective, step, update = self.programs[name]
        state, looks = step.init(objective.init(jtl.rng.stream(key, "weights"), data[0]), key), []
        for i in range(self.setting.steps):
            state, _ = update(state, data[i])
            if (i + 1) % self.setting.every == 0:
                looks.append({"step": i + 1, **self._scores(variables_of(state), domains)})
        return variables_of(state), looks

    def _shot(self, domains: Domains, seed: int, key: Any, start: Any) -> tuple[Any, list[dict[str, Any]]]:
        x = domains.target[0]
        rows = jtl.data.arrays(x, np.arange(len(x)), batch_size=self.setting.batch, seed=seed)
        objective = jtl.source_free.shot(self.net, len(x), weight=self.setting.shot_weight)
        step = jtl.make_step(objective, optax.adam(self.setting.rate), trainable=jtl.select("backbone/.*"))
        own = start._replace(params={n: start.params[n] for n in ("backbone", "head")})
        state, looks = step.init(objective.init(key, rows[0], own), key), []
        update, label = jax.jit(step), jtl.source_free.pseudo_labels(self.net, rows)
        steps = self.setting.steps // 2  # the source's half of the work was done before
        for i in range(steps):
            if i % self.setting.every == 0:
                state = label(state)
            state, _ = update(state, rows[i])
            if (i + 1) % (self.setting.every // 2) == 0:
                looks.append({"step": i + 1, **self._scores(_own(state), domains)})
        return _own(state), looks

    def _scores(self, variables: Any, domains: Domains) -> dict[str, float]:
        z = self._rows(variables, domains.target[0][: self.setting.scored])
        found = {name: score(z) for name, score in SCORES.items()}
        z = self._rows(variables, domains.test[0])
        return {**found, "accuracy": float((z.argmax(1) == domains.test[1]).mean())}

    def _rows(self, variables: Any, x: np.ndarray, size: int = 250) -> np.ndarray:
        found = []
        for i in range(0, len(x), size):
            part = x[i : i + size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            found.append(np.asarray(self.look(variables, full))[: len(part)])
        return np.concatenate(found)


def _own(state: Any) -> Any:
    found = variables_of(state)
    return found._replace(stats={n: part for n, part in found.stats.items() if n != "shot"})


def resumed(
    runs: Callable[[tuple[int, ...]], Runs],
    pairs: dict[str, Callable[[], Domains]],
    methods: tuple[str, ...],
    seeds: int,
    record: Path,
    minutes: float,
) -> list[dict[str, Any]]:
    """All rows: those that `record` has, and those that are run now, which are added to it; seeds are the outer loop.

    Args:
      runs: by the shape of an example.
      pairs: the domains of each pair by name.
      methods: "source" first.
      seeds: at most so many.
      record: a file with one result on each line. A benchmark that was stopped skips the results that it holds.
      minutes: no run is begun after so many.
    """
    began = time.perf_counter()
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    done, made, loaded = {(r["pair"], r["method"], r["seed"]) for r in rows}, {}, {}
    for seed in range(seeds):
        for pair, load in pairs.items():
            missing = [name for name in methods if (pair, name, seed) not in done]
            if not missing:
                continue
            domains = loaded.setdefault(pair, None) or load()
            loaded[pair] = domains
            shape = domains.source[0].shape[1:]
            of_shape = made.setdefault(shape, runs(shape))
            start = None
            if "source" not in missing and set(missing) & set(adaptations.AFTER_SOURCE):
                _, start = of_shape.run("source", domains, seed)
            for name in missing:
                if time.perf_counter() - began > 60 * minutes:
                    return rows
                row, variables = of_shape.run(name, domains, seed, start)
                if name == "source":
                    start = variables
                rows.append({"pair": pair, **row})
                with record.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                last = row["looks"][-1]
                print(
                    f"{pair} seed {seed} {name}: {100 * last['accuracy']:.1f} im {last['im']:.3f}, {row['seconds']} s",
                    flush=True,
                )
    return rows
