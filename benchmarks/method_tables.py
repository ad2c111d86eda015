"""Tables of the methods' benchmarks: rows of a JSON file in, a table out."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import meta_tables
from benchmarks.intervals import mean_told
from jtl.report.tables import Table


def _test_time(rows: list[dict[str, Any]]) -> Table:
    severities = sorted({row.get("severity", 5) for row in rows})
    if len(severities) > 1:
        return _by_severity(rows, severities)
    found = []
    for row in rows:
        errors = f"{statistics.mean(row['errors']):.1f}"
        found.append((row["method"], errors, "-" if row["method"] == "source" else mean_told(row["gains"])))
    return Table(
        "Error in percent, and points gained over the source (95 % interval over seeds)",
        ("method", "error", "gain"),
        found,
    )


def _by_severity(rows: list[dict[str, Any]], severities: list[int]) -> Table:
    cells = {(row["method"], row["severity"]): row for row in rows}
    found = []
    for name in dict.fromkeys(row["method"] for row in rows):
        each = [cells[name, severity] for severity in severities]
        told = [f"{statistics.mean(row['errors']):.1f}" for row in each]
        if name != "source":
            told = [f"{error} ({mean_told(row['gains'])})" for error, row in zip(told, each, strict=True)]
        found.append((name, *told))
    return Table(
        "Error in percent by the severity of the corruptions (points gained over the source, 95 % interval over seeds)",
        ("method", *(f"severity {severity}" for severity in severities)),
        found,
    )


def _finetuning(rows: list[dict[str, Any]]) -> Table:
    rows = [row for row in rows if row["accuracies"]]
    runs = min(len(row["accuracies"]) for row in rows)  # complete draws only, if a run was stopped within a draw
    shots = sorted({row["shot"] for row in rows})
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        told = f"{100 * statistics.mean(row['accuracies'][:runs]):.1f}"
        if row["method"] != "probe":
            told += f" ({mean_told(row['gains'][:runs])})"
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


def _ranking(rows: list[dict[str, Any]]) -> list[Table]:
    """Compares each score's order with that of fine-tuned networks; lists accuracies. Only for complete data sets."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    data = {of: [row for row in rows if row["data"] == of] for of in dict.fromkeys(row["data"] for row in rows)}
    data = {of: part for of, part in data.items() if len(part) == len(networks)}
    found = []
    for score in ("logme", "h_score", "transrate", "nce", "leep", "probe"):
        parts = [[row for row in part if row[score] is not None] for part in data.values()]
        if not all(parts):
            continue
        alone = [[row for row in part if not row["network"].startswith("random")] for part in parts]
        taus = [
            [tau([row[score] for row in part], [row[truth] for row in part]) for part in of]
            for of, truth in ((parts, "tuned"), (alone, "tuned"), (parts, "probe"))
        ]
        lost = [
            100 * (max(part, key=lambda row: row[score])["tuned"] - max(row["tuned"] for row in part)) for part in parts
        ]
        told = [mean_told(of, ".2f") for of in taus]
        told[-1] = "-" if score == "probe" else told[-1]
        found.append((score, str(len(parts[0])), *told, mean_told(lost)))
    columns = (
        "score",
        "networks",
        "tau, fine-tuned",
        "without random weights",
        "tau, probe",
        "points lost by its first",
    )
    title = f"Kendall's tau with the order of accuracies, mean of {len(data)} data sets (95 % interval)"
    accuracies = [
        (of, *(next(_cell(row, part) for row in part if row["network"] == name) for name in networks))
        for of, part in data.items()
    ]
    return [
        Table(title, columns, found),
        Table("Test accuracy in percent when fine-tuned (rank by LogME)", ("data", *networks), accuracies),
    ]


def _cell(row: dict[str, Any], part: list[dict[str, Any]]) -> str:
    return f"{100 * row['tuned']:.1f} ({1 + sum(other['logme'] > row['logme'] for other in part)})"


def tau(score: list[float], accuracy: list[float]) -> float:
    """Kendall's tau-b; 0 if one of them does not vary and so orders nothing."""
    pairs = [(i, j) for i in range(len(score)) for j in range(i)]
    signs = [[_sign(of[i] - of[j]) for i, j in pairs] for of in (score, accuracy)]
    norm = (sum(map(abs, signs[0])) * sum(map(abs, signs[1]))) ** 0.5
    return sum(a * b for a, b in zip(*signs, strict=True)) / norm if norm else 0.0


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _adaptation(rows: list[dict[str, Any]]) -> Table:
    """One line per pair of domains and method, then means over pairs; gains are paired by seed."""
    score = rows[0].get("validator", "im")
    chosen = {(r["pair"], r["method"], r["seed"]): looked(r["looks"], score) for r in rows}
    seconds = {(r["pair"], r["method"], r["seed"]): r["seconds"] for r in rows}
    pairs, methods = (list(dict.fromkeys(key[i] for key in chosen)) for i in (0, 1))
    lines = [(pair, (pair,), name) for pair in pairs for name in methods]
    if len(pairs) > 1:
        lines += [(f"mean of {len(pairs)}", tuple(pairs), name) for name in methods]
    found = []
    for told, of, name in lines:
        seeds = [
            s
            for s in dict.fromkeys(key[2] for key in chosen)
            if all((pair, way, s) in chosen for pair in of for way in ("source", name))
        ]
        if not seeds:
            continue

        def mean(table: dict, way: str, seed: int, column: str | None = None, of: tuple = of) -> float:
            values = [table[pair, way, seed] for pair in of]
            return statistics.mean(values if column is None else [value[column] for value in values])

        gains = [mean(chosen, name, s, "chosen") - mean(chosen, "source", s, "chosen") for s in seeds]
        columns = {
            column: statistics.mean(mean(chosen, name, s, column) for s in seeds)
            for column in ("score", "chosen", "last", "ORACLE")
        }
        found.append(
            (
                told,
                name,
                f"{columns['score']:.3f}",
                f"{columns['chosen']:.1f}",
                "-" if name == "source" else mean_told(gains),
                *(f"{columns[column]:.1f}" for column in ("last", "ORACLE")),
                str(len(seeds)),
                f"{statistics.mean(mean(seconds, name, s) for s in seeds):.0f}",
            )
        )
    columns = ("domains", "method", score, "accuracy", "gain", "last step", "ORACLE checkpoint", "seeds", "seconds")
    title = f"Accuracy on the target in percent, checkpoint by {score}; points gained over the source"
    return Table(f"{title} (95 % interval over seeds)", columns, found)


def looked(looks: list[dict[str, Any]], score: str) -> dict[str, float]:
    """The accuracies in percent of a run's checkpoints: by a score, the last, by the test labels; and the score."""
    best = max(looks, key=lambda look: look[score])
    last, oracle = looks[-1]["accuracy"], max(look["accuracy"] for look in looks)
    return {"chosen": 100 * best["accuracy"], "last": 100 * last, "ORACLE": 100 * oracle, "score": best[score]}


def _validators(rows: list[dict[str, Any]]) -> Table:
    """One line per score: its rank correlations on the pairs that choose a score, and its choice on the last pair."""
    pairs = list(rows[0]["correlations"])
    shown = [
        (
            row["score"],
            *(f"{row['correlations'][pair]:+.2f}" for pair in pairs),
            f"{statistics.mean(row['correlations'].values()):+.2f}",
            *row["chosen"].values(),
            mean_told(row["gains"]),
        )
        for row in sorted(rows, key=lambda row: -statistics.mean(row["correlations"].values()))
    ]
    held_out = rows[0]["pair"]
    titles = [f"chosen, {pair}" for pair in rows[0]["chosen"]]
    columns = ("score", *pairs, "mean", *titles, f"gain, {held_out}")
    title = f"Spearman's correlation of a score and the test accuracy over methods, mean of {rows[0]['seeds']} seeds"
    return Table(f"{title}; the method that it chooses, and what that gains on {held_out}", columns, shown)


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


def _sentences(rows: list[dict[str, Any]]) -> Table:
    found = []
    for row in rows:
        told = mean_told(row["gains"]) if any(row["gains"]) else "-"
        found.append((row["method"], f"{statistics.mean(row['accuracies']):.1f}", told))
    title = "Accuracy in percent, and points gained over the logistic regression (95 % interval over seeds)"
    return Table(title, ("way", "accuracy", "gain"), found)


def _shot(rows: list[dict[str, Any]]) -> Table:
    """One line per run of SHOT on digits, with its paper's numbers."""
    found = []
    for row in rows:
        names = {"mnist": "MNIST to USPS", "usps": "USPS to MNIST"}
        (alone, published), seconds = row["published"], row["seconds"]
        got = row["after"]["accuracy"]
        found.append(
            (
                names[row["source"]],
                str(row["frame"]),
                *(f"{epochs} of 30" for epochs in row["epochs"]),
                f"{row['before']['accuracy']:.1f} ({alone})",
                f"{got:.1f} ({published})",
                f"{got - published:+.1f}",
                f"{row['before']['clustering']:.3f}, {row['after']['clustering']:.3f}",
                f"{sum(seconds):.0f}",
            )
        )
    columns = (
        *("domains", "pixels of a digit of USPS", "epochs, source", "epochs, target"),
        *("source alone (published)", "SHOT (published)", "difference", "clustering before, after", "seconds"),
    )
    return Table("Accuracy on the target's test images in percent, last step", columns, found)


METHODS: dict[str, Callable[[list[dict[str, Any]]], Table | list[Table]]] = {
    "sentences": _sentences,
    "test_time": _test_time,
    "finetuning": _finetuning,
    "cached_features": _cached_features,
    "ranking": _ranking,
    "adaptation": _adaptation,
    "validators": _validators,
    "sinusoids": meta_tables.sinusoids,
    "episodes": meta_tables.episodes,
    "faults": _faults,
    "command": _command,
    "adapters": _adapters,
    "few": meta_tables.few,
    "cifar_fs": meta_tables.few,
    "omniglot_protonet": meta_tables.few,
    "sound_episodes": meta_tables.sound_episodes,
    "review_episodes": meta_tables.review_episodes,
    "meta_against_torch": meta_tables.meta_against,
    "few_tuned": meta_tables.few_tuned,
    "shot": _shot,
}
