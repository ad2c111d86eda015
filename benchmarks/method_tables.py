"""Tables of the methods' benchmarks: rows of a JSON file in, a table out."""

import statistics
from collections.abc import Callable
from typing import Any

from jtl.report.tables import Table


def _test_time(rows: list[dict[str, Any]]) -> Table:
    found = []
    for row in rows:
        gain = row["gains"]
        errors = f"{sum(row['errors']) / len(gain):.1f}"
        half = student(len(gain)) * statistics.stdev(gain) / len(gain) ** 0.5 if len(gain) > 1 else None
        told = "-" if row["method"] == "source" else f"{sum(gain) / len(gain):+.1f}"
        found.append((row["method"], errors, told if half is None or told == "-" else f"{told} ± {half:.1f}"))
    return Table(
        "Error in percent, and points gained over the source (95 % interval over seeds)",
        ("method", "error", "gain"),
        found,
    )


def _finetuning(rows: list[dict[str, Any]]) -> Table:
    rows = [row for row in rows if row["accuracies"]]
    runs = min(len(row["accuracies"]) for row in rows)  # of a run that was stopped within a draw, whole draws
    shots = sorted({row["shot"] for row in rows})
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        told = f"{100 * statistics.mean(row['accuracies'][:runs]):.1f}"
        if row["method"] != "probe":
            told += f" ({_gain(row['gains'][:runs])})"
        cells.setdefault(row["method"], {})[row["shot"]] = told
    return Table(
        f"Test accuracy in percent after {rows[0]['steps']} steps of 16 examples, and points over the probe "
        + (f"(95 % interval over {runs} paired draws)" if runs > 1 else "(one draw)"),
        ("method", *(f"{shot} a class" for shot in shots)),
        [(name, *(of.get(shot, "") for shot in shots)) for name, of in cells.items()],
    )


def _cached_features(rows: list[dict[str, Any]]) -> Table:
    found = [
        (
            row["network"],
            str(row["rows"]),
            str(row["epochs"]),
            f"{row['network_seconds']:.1f}",
            f"{row['cached_seconds']:.2f}",
            f"{row['ratio']:.0f}",
        )
        for row in rows
    ]
    columns = ("network", "images", "epochs", "through the network s", "on cached features s", "ratio")
    return Table("a linear head", columns, found)


def _ranking(rows: list[dict[str, Any]]) -> Table:
    found = [
        (row["score"], str(row["networks"]), _gain(row["taus"], ".2f"), _gain([100 * lost for lost in row["lost"]]))
        for row in rows
    ]
    return Table(
        f"Kendall's tau with the probe's order, mean of {len(rows[0]['taus'])} data sets (95 % interval)",
        ("score", "networks", "tau", "points lost by its first choice"),
        found,
    )


def _gain(gains: list[float], form: str = ".1f") -> str:
    mean = f"{statistics.mean(gains):+{form}}"
    if len(gains) < 2:
        return mean
    return f"{mean} ± {student(len(gains)) * statistics.stdev(gains) / len(gains) ** 0.5:{form}}"


def _adaptation(rows: list[dict[str, Any]]) -> Table:
    """A line for each pair of domains and method; checkpoints by the fixed score `im`, gains paired by seed."""
    chosen = {(r["pair"], r["method"], r["seed"]): _looked(r["looks"]) for r in rows}
    found = []
    for pair, name in dict.fromkeys((pair, name) for pair, name, _ in chosen):
        seeds = [s for p, n, s in chosen if (p, n) == (pair, name) and (pair, "source", s) in chosen]
        if not seeds:
            continue
        own = [chosen[pair, name, s] for s in seeds]
        gains = [look["im"] - chosen[pair, "source", s]["im"] for look, s in zip(own, seeds, strict=True)]
        half = f" ± {student(len(gains)) * statistics.stdev(gains) / len(gains) ** 0.5:.1f}" if len(gains) > 1 else ""
        told = "-" if name == "source" else f"{statistics.mean(gains):+.1f}{half}"
        columns = [f"{statistics.mean(look[column] for look in own):.1f}" for column in ("im", "last", "ORACLE")]
        score = f"{statistics.mean(look['score'] for look in own):.3f}"
        seconds = statistics.mean(r["seconds"] for r in rows if (r["pair"], r["method"]) == (pair, name))
        found.append((pair, name, score, columns[0], told, *columns[1:], str(len(seeds)), f"{seconds:.0f}"))
    columns = ("domains", "method", "im", "accuracy", "gain", "last step", "ORACLE checkpoint", "seeds", "seconds")
    title = (
        "Accuracy on the target in percent, checkpoint by im; points gained over the source (95 % interval over seeds)"
    )
    return Table(title, columns, found)


def _looked(looks: list[dict[str, Any]]) -> dict[str, float]:
    """The accuracies in percent of three checkpoints of a run: by im, the last, by the test labels; and the score."""
    best = max(looks, key=lambda look: look["im"])
    last, oracle = looks[-1]["accuracy"], max(look["accuracy"] for look in looks)
    return {"im": 100 * best["accuracy"], "last": 100 * last, "ORACLE": 100 * oracle, "score": best["im"]}


def student(runs: int) -> float:
    """The 97.5 % quantile of Student's t with one degree of freedom less than runs, which makes a 95 % interval."""
    from scipy.stats import t

    return float(t.ppf(0.975, runs - 1))


def _sinusoids(rows: list[dict[str, Any]]) -> Table:
    columns = ("inner steps", "mean squared error", "published", "ratio")
    shown = [
        (
            str(row["steps"]),
            f"{row['mse']:.3f} ± {row['interval']:.3f}",
            f"{row['published']:g}",
            f"{row['mse'] / row['published']:.2f}",
        )
        for row in rows
    ]
    return Table("MAML on sinusoids", columns, shown)


def _adapters(rows: list[dict[str, Any]]) -> Table:
    full = next(row for row in rows if row["method"] == "full")
    shown = [
        (
            row["method"],
            f"{row['trained']:,}",
            f"{row['flops'] / full['flops']:.2f}",
            f"{row['parameters_bytes'] / 1e6:.1f}",
            f"{row['optimizer_bytes'] / 1e6:.2f}",
            f"{row['memory_bytes'] / 1e6:.0f}",
            "-" if row["time_ratio"] is None else "{1:.2f} ({0:.2f} to {2:.2f})".format(*row["time_ratio"]),
        )
        for row in rows
    ]
    columns = ("method", "trained", "FLOPs / full", "parameters MB", "optimizer MB", "memory MB", "time / full")
    return Table("One training step of each adapter, beside full fine-tuning", columns, shown)


def _episodes(rows: list[dict[str, Any]]) -> Table:
    return Table("episodes sampled", ("episodes", "a second"), [(row["name"], f"{row['rate']:,.0f}") for row in rows])


def _faults(rows: list[dict[str, Any]]) -> Table:
    columns = ("kind", "tried", "survived", "told", "wrong", "lost")
    return Table("What injected faults came to", columns, [tuple(str(row[name]) for name in columns) for row in rows])


def _command(rows: list[dict[str, Any]]) -> Table:
    columns = ("data, size, what is trained", "test %", "validation %", "runs", "seconds", "CPU seconds")
    return Table(
        "`jtl finetune`: accuracy, and the time of a run with its report", columns, [_command_row(r) for r in rows]
    )


def _command_row(row: dict[str, Any]) -> tuple[str, ...]:
    def over(values: list[float], digits: int) -> str:
        mean = f"{statistics.mean(values):.{digits}f}"
        return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    of = [over(row[name], digits) for name, digits in (("test", 1), ("validation", 1), ("seconds", 0), ("cpu", 0))]
    return (row["case"], of[0], of[1], str(len(row["test"])), of[2], of[3])


def _few(rows: list[dict[str, Any]]) -> Table:
    heads = list(dict.fromkeys(row["head"] for row in rows))
    found: dict[tuple, dict[str, str]] = {}
    for row in rows:
        place = found.setdefault((row["data"], f"{row['way']}-way {row['shot']}-shot"), {})
        place[row["head"]] = f"{row['accuracy']:.1f} ± {row['interval']:.1f}"
    return Table(
        "Accuracy in percent (95 % interval over episodes)",
        ("data", "task", *heads),
        [(*place, *(values[head] for head in heads)) for place, values in found.items()],
    )


def _sentences(rows: list[dict[str, Any]]) -> Table:
    found = []
    for row in rows:
        gain, score = row["gains"], sum(row["accuracies"]) / len(row["accuracies"])
        half = student(len(gain)) * statistics.stdev(gain) / len(gain) ** 0.5 if len(gain) > 1 else None
        told = "-" if not any(gain) else f"{sum(gain) / len(gain):+.1f}" + ("" if half is None else f" ± {half:.1f}")
        found.append((row["method"], f"{score:.1f}", told))
    title = "Accuracy in percent, and points gained over the logistic regression (95 % interval over seeds)"
    return Table(title, ("way", "accuracy", "gain"), found)


METHODS: dict[str, Callable[[list[dict[str, Any]]], Table]] = {
    "sentences": _sentences,
    "test_time": _test_time,
    "finetuning": _finetuning,
    "cached_features": _cached_features,
    "ranking": _ranking,
    "adaptation": _adaptation,
    "sinusoids": _sinusoids,
    "episodes": _episodes,
    "faults": _faults,
    "command": _command,
    "adapters": _adapters,
    "few": _few,
}
