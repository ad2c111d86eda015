"""Tables of the benchmarks of few-shot learning and meta-learning."""

import statistics
from typing import Any

from benchmarks.intervals import mean_told
from jtl.report.tables import Table


def sinusoids(rows: list[dict[str, Any]]) -> Table:
    columns = (
        "inner steps",
        "published",
        "mean of each seed",
        "ratio",
        "after 6/7",
        "without 0.1 %",
        "median",
        "> 100",
    )

    def several(values: list[float]) -> str:
        return ", ".join(f"{value:.3f}" if value < 1000 else f"{value:.0e}" for value in values)

    shown = [
        (
            str(row["steps"]),
            f"{row['published']:g}",
            several(row["each"]),
            f"{statistics.median(row['each']) / row['published']:.2f}",
            several(row["earlier"]),
            several(row["trimmed"]),
            several(row["median"]),
            ", ".join(map(str, row["diverged"])),
        )
        for row in rows
    ]
    return Table(
        f"MAML on sinusoids: squared error of {rows[0]['tasks']:,} tasks by seeds; the ratio is of the median seed",
        columns,
        shown,
    )


def episodes(rows: list[dict[str, Any]]) -> Table:
    return Table("episodes sampled", ("episodes", "a second"), [(row["name"], f"{row['rate']:,.0f}") for row in rows])


def few(rows: list[dict[str, Any]]) -> Table:
    heads = list(dict.fromkeys(row["head"] for row in rows))
    found: dict[tuple, dict[str, str]] = {}
    for row in rows:
        place = found.setdefault((row["data"], f"{row['way']}-way {row['shot']}-shot"), {})
        place[row["head"]] = f"{row['accuracy']:.1f} ± {row['interval']:.1f}"
    return Table(
        "Accuracy in percent (95 % interval over episodes)",
        ("data", "task", *heads),
        [(*place, *(values.get(head, "-") for head in heads)) for place, values in found.items()],
    )


def sound_episodes(rows: list[dict[str, Any]]) -> Table:
    """Accuracies of ways over speakers, and the paired gain over a classifier with nearest means."""
    return _paired(rows, "classifier + nearest mean", "New speakers' digits", "speakers")


def review_episodes(rows: list[dict[str, Any]]) -> Table:
    """Accuracies of ways over kinds of products, and the paired gain over a logistic regression on frozen features."""
    return _paired(rows, "frozen + logistic regression", "Sentiment of a new kind of product", "kinds")


def _paired(rows: list[dict[str, Any]], usual: str, what: str, units: str) -> Table:
    found = []
    for row in rows:
        base = next(r["each"] for r in rows if r["shot"] == row["shot"] and r["head"] == usual)
        gain = [a - b for a, b in zip(row["each"], base, strict=True)]
        task = f"{row['way']}-way {row['shot']}-shot"
        found.append(
            (task, row["head"], mean_told(row["each"], sign=""), "-" if row["head"] == usual else mean_told(gain))
        )
    title = f"{what}, accuracy in percent, mean of {len(rows[0]['each'])} {units} (95 % interval, t)"
    return Table(title, ("task", "way", "accuracy", f"gain over {usual}"), found)


def few_tuned(rows: list[dict[str, Any]]) -> Table:
    found = []
    for row in rows:
        told = f"{row['gain']:+.1f} ± {row['interval']:.1f}" if "gain" in row else "-"
        without, after = (sum(pair[i] for pair in row["each"]) / len(row["each"]) for i in (0, 1))
        task = f"{row['way']}-way {row['shot']}-shot"
        found.append((row["data"], task, str(row["supports"]), f"{without:.1f}", f"{after:.1f}", told))
    title = f"Accuracy in percent, and points gained by {rows[0]['steps']} steps (95 % interval over supports, t)"
    return Table(title, ("data", "task", "supports", "without", "with steps", "gain"), found)


def meta_against(rows: list[dict[str, Any]]) -> Table:
    columns = (
        "inner steps",
        "program",
        "tasks, filters",
        "fastest ms",
        "median ms",
        "time / jtl",
        "of the fastest",
        "aim",
        "memory MB",
    )
    return Table("MAML beside torch, a meta-step", columns, [_meta_against_row(row) for row in rows])


def _meta_against_row(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["ratio_quartiles"]
    own = row["way"] == "jtl"
    return (
        str(row["inner_steps"]),
        row["way"],
        f"{row['tasks']}, {row['filters']}",
        f"{1e3 * row['fastest']:.0f}",
        f"{1e3 * row['median']:.0f}",
        "-" if own else f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})",
        "-" if own else f"{row['ratio_of_fastest']:.2f}",
        "-" if row["aim"] is None else f"{row['aim']:g}",
        "-" if row["grown_bytes"] is None else f"{row['grown_bytes'] / 1e6:.0f}",
    )
