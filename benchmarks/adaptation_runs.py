"""One run of an adaptation method, scored without labels every few steps, and its accuracy on the target."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from scipy.stats import rankdata

import jtl
from jtl.command import adaptations
from jtl.selection import validators
from jtl.train.state import variables as variables_of

VALIDATOR = "clustering"
"""The score that chooses checkpoints and methods: among the scores of `Runs`, it ranked methods most like the test
accuracy did on two of the three pairs of digits, see `digits_adaptation.py`."""
OF_TARGET: dict[str, Callable[[Any], float]] = {
    "certainty": lambda t: validators.certainty(t["output"]),
    "im": lambda t: validators.information_maximisation(t["output"]),
    "bnm": lambda t: validators.nuclear_norm(t["output"]),
    "snd": lambda t: validators.soft_neighbourhood_density(t["output"]),
    "clustering": lambda t: validators.class_clustering(t["read"], t["output"]),
}
OF_BOTH: dict[str, Callable[[Any, Any], float]] = {
    "source_accuracy": lambda t, s: validators.accuracy(s["output"], s["y"]),
    "reverse": lambda t, s: validators.reverse_validation(t["read"], t["output"], s["read"], s["y"]),
    "dev": lambda t, s: -validators.deep_embedded_validation(_losses(s), _weights(t, s)),
    "devn": lambda t, s: -validators.deep_embedded_validation(_losses(s), _weights(t, s), "max"),
}
"""The two risks are negated, so that higher is better for all scores."""


class Domains(NamedTuple):
    """Arrays of two domains.

    Args:
      source: rows and labels.
      target: the training rows (labels for the oracle alone).
      test: test rows of the target.
      held: rows of the source that no method learns from, for the scores that read the source.
    """

    source: tuple[np.ndarray, np.ndarray]
    target: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    held: tuple[np.ndarray, np.ndarray] | None = None


class Setting(NamedTuple):
    """The settings of all runs of a benchmark; no target label chose any of them."""

    steps: int
    every: int
    batch: int
    rate: float
    scored: int
    shot_weight: float


class Runs:
    """Runs of all methods on one network; seeds and pairs of domains share compiled programs.

    Args:
      net: the network.
      classes: number of its classes.
      setting: the settings of all runs.
      tx: the optimizer; None for Adam with the learning rate of the setting.
    """

    def __init__(self, net: Any, classes: int, setting: Setting, tx: optax.GradientTransformation | None = None):
        self.net, self.classes, self.setting = net, classes, setting
        self.tx = tx or optax.adam(setting.rate)
        self.programs: dict[Any, Any] = {}
        self.look = jax.jit(self._look)

    def run(self, name: str, domains: Domains, seed: int, start: Any = None) -> tuple[dict[str, Any], Any]:
        """Returns a row of results, and the last step's variables.

        Args:
          name: one of `adaptations.NAMES`, or "oracle", which learns from the target's labels.
          domains: the data.
          seed: seed of the weights and of the batches.
          start: variables trained on the source, for the methods that start from them.
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
            masks = [jtl.select(*group) for group in made.groups]
            step = jtl.make_step(made.objective, [self.tx] * len(masks), trainable=masks)
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
        if ("shot", len(x)) not in self.programs:
            objective = jtl.source_free.shot(self.net, len(x), weight=self.setting.shot_weight)
            step = jtl.make_step(objective, self.tx, trainable=jtl.select("backbone/.*"))
            self.programs["shot", len(x)] = objective, step, jax.jit(step, donate_argnums=0)
        objective, step, update = self.programs["shot", len(x)]
        own = start._replace(params={n: start.params[n] for n in ("backbone", "head")})
        state, looks = step.init(objective.init(key, rows[0], own), key), []
        label = jtl.source_free.pseudo_labels(self.net, rows)
        steps = self.setting.steps // 2  # the other half of the steps was spent on the source
        for i in range(steps):
            if i % self.setting.every == 0:
                state = label(state)
            state, _ = update(state, rows[i])
            if (i + 1) % (self.setting.every // 2) == 0:
                looks.append({"step": i + 1, **self._scores(_own(state), domains)})
        return _own(state), looks

    def _scores(self, variables: Any, domains: Domains) -> dict[str, float]:
        x = domains.target[0][: self.setting.scored]
        there = self._rows(variables, x)
        found = {name: score(there) for name, score in OF_TARGET.items()}
        mixed = validators.mixval(lambda x: self._rows(variables, x)["output"], x)
        found |= {f"mixval_{name}": value for name, value in mixed.items()}
        if domains.held is not None:
            x, y = (part[: self.setting.scored] for part in domains.held)
            here = {**self._rows(variables, x), "y": y}
            found |= {name: score(there, here) for name, score in OF_BOTH.items()}
        z = self._rows(variables, domains.test[0])["output"]
        return {**found, "accuracy": float((z.argmax(1) == domains.test[1]).mean())}

    def _look(self, variables: Any, x: Any) -> dict[str, Any]:
        out = self.net.apply(variables, x, train=False)[0]
        return {"output": out.output, "read": out.read}

    def _rows(self, variables: Any, x: np.ndarray, size: int = 250) -> dict[str, np.ndarray]:
        found = []
        for i in range(0, len(x), size):
            part = x[i : i + size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            found.append({name: np.asarray(a)[: len(part)] for name, a in self.look(variables, full).items()})
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _own(state: Any) -> Any:
    found = variables_of(state)
    return found._replace(stats={n: part for n, part in found.stats.items() if n != "shot"})


def _losses(rows: dict[str, Any]) -> np.ndarray:
    z = np.asarray(rows["output"], np.float64)
    z = z - z.max(1, keepdims=True)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), rows["y"]]


def _weights(target: dict[str, Any], source: dict[str, Any]) -> np.ndarray:
    return validators.density_ratio(source["read"], target["read"], source["read"])


def resumed(
    runs: Callable[[tuple[int, ...]], Runs],
    pairs: dict[str, Callable[[], Domains]],
    methods: tuple[str, ...],
    seeds: int,
    record: Path,
    minutes: float,
) -> list[dict[str, Any]]:
    """Returns the rows in `record` and those of the remaining runs, which it adds; the outer loop is over seeds.

    Args:
      runs: makes the `Runs` for a shape of examples.
      pairs: the domains of each pair by name.
      methods: "source" first.
      seeds: the largest number of seeds.
      record: a file with one result per line. A benchmark that is started again skips the results in it.
      minutes: no run is started after so many minutes.
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
                told = f"{100 * last['accuracy']:.1f} {VALIDATOR} {last[VALIDATOR]:.3f}, {row['seconds']} s"
                print(f"{pair} seed {seed} {name}: {told}", flush=True)
    return rows


def correlations(rows: list[dict[str, Any]], held_out: str) -> list[dict[str, Any]]:
    """Returns one row per score: its rank correlation with the test accuracy on each pair but one, and its choices.

    Args:
      rows: rows of `resumed`; seeds that lack a method are left out, and so is the oracle, which cannot be chosen.
      held_out: the pair whose gains are reported and whose correlation is not.
    """
    rows = [row for row in rows if row["method"] != "oracle"]
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    names = [name for name in rows[0]["looks"][0] if name not in ("step", "accuracy")]
    by = {(row["pair"], row["method"], row["seed"]): row["looks"] for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    seeds = [s for s in sorted({row["seed"] for row in rows}) if all((p, m, s) in by for p in pairs for m in methods)]
    found = []
    for name in names:
        spearman, chosen, gains = {}, {}, []
        for pair in pairs:
            last = [[by[pair, m, s][-1] for m in methods] for s in seeds]
            ranks = [[rankdata([look[n] for look in looks]) for n in (name, "accuracy")] for looks in last]
            spearman[pair] = float(np.mean([np.corrcoef(*two)[0, 1] for two in ranks]))
            best = {m: [max(by[pair, m, s], key=lambda look: look[name]) for s in seeds] for m in methods}
            chosen[pair] = max(methods, key=lambda m: float(np.mean([look[name] for look in best[m]])))
            if pair == held_out:
                both = zip(best[chosen[pair]], best["source"], strict=True)
                gains = [100 * (a["accuracy"] - b["accuracy"]) for a, b in both]
        other = {pair: value for pair, value in spearman.items() if pair != held_out}
        found.append({"score": name, "correlations": other, "chosen": chosen, "gains": gains, "pair": held_out,
                      "seeds": len(seeds)})  # fmt: skip
    return found
