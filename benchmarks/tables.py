"""Results as Markdown: `python benchmarks/tables.py benchmarks/results/*.json` remakes every table from its JSON."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.method_tables import METHODS
from jtl.report.tables import Table, markdown


def write(results: dict[str, Any], path: Path) -> None:
    """Writes results as JSON, and next to it as a Markdown table.

    Raises:
      ValueError: for a number that is not finite, which JSON cannot express.
    """
    path.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    path.with_suffix(".md").write_text(render(results))


def render(results: dict[str, Any]) -> str:
    """The Markdown page of one benchmark's results."""
    where, made = results["environment"], _TABLES[results["benchmark"]](results["rows"])
    page = [
        f"`{where['command']}`",
        (f"for {where['target']}, compiled on " if "target" in where else "")
        + f"{where['device']}, {where['cores']} cores, jax {where['jax']}, Python {where['python']}"
        + (f", torch {where['torch']}" if "torch" in where else "")
        + f"; {where['date'][:10]}, load at the start {where['load'][0]}"
        + (f", {results['minutes']:g} minutes." if "minutes" in results else "."),
        *map(markdown, made if isinstance(made, list) else [made]),
    ]
    return "\n\n".join(page) + "\n"


def _throughput(rows: list[dict[str, Any]]) -> Table:
    columns = (
        "family",
        "backbone",
        "batch",
        "examples/s",
        "steps/s",
        "share of hand-written",
        "compile s",
        "GFLOP",
        "GFLOP hand-written",
        "memory MB",
        "MFU",
    )
    return Table("jtl's step beside a hand-written one", columns, [_throughput_row(row) for row in rows])


def _throughput_row(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["share_quartiles"]
    held = row["memory_bytes"]["jtl"] if row["device_peak_bytes"] is None else row["device_peak_bytes"]
    return (
        row["family"],
        f"{row['backbone']} {row['size']} {row['unit']}" + ("" if row["dtype"] == "float32" else f" {row['dtype']}"),
        _batch(row),
        f"{row['examples_per_second']:.4g}",
        f"{row['steps_per_second']:.3g}",
        f"{row['share']:.3f} ({low:.3f} to {high:.3f})",
        f"{row['compile_seconds']['jtl']:.1f}",
        f"{row['flops']['jtl'] / 1e9:.4g}",
        f"{row['flops']['handwritten'] / 1e9:.4g}",
        f"{held / 1e6:.0f}",
        "-" if row["mfu"] is None else f"{100 * row['mfu']:.0f} %",
    )


def _against(rows: list[dict[str, Any]]) -> Table:
    columns = ("case", "batch", "jtl s", "torch s", "jtl / torch speed", "aim", "jtl fwd, grad s", "torch fwd, grad s")
    return Table("jtl beside torch, seconds a step", columns, [_against_row(row) for row in rows])


def _against_row(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["ratio_quartiles"]
    parts = row["parts"] or {}

    def spent(side):
        return f"{parts[side]['forward']:.3g}, {parts[side]['gradient']:.3g}" if parts else "-"

    dtype = "" if row["dtype"] == "float32" else f" {row['dtype']}"
    inner = f", {row['inner_steps']} inner" if row["family"] == "maml" else ""
    return (
        f"{row['family']} {row['backbone']} {row['size']} px{dtype}{inner}",
        _batch(row),
        f"{row['seconds']['jtl']:.3g}",
        f"{row['seconds']['torch']:.3g}",
        f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})",
        "-" if row["aim"] is None else f"{row['aim']:g}",
        spent("jtl"),
        spent("torch"),
    )


def _transformers(rows: list[dict[str, Any]]) -> Table:
    devices = rows[0]["forward"].get("devices")
    cut = () if devices is None else (f"forward over {devices} devices",)
    columns = (
        "network",
        "batch",
        "forward, jtl / torch",
        *cut,
        "aim",
        "train step, jtl / torch",
        "aim",
        "seconds",
        "MFU",
    )
    return Table("jtl beside transformers, ratio of speeds", columns, [_transformers_row(row) for row in rows])


def _transformers_row(row: dict[str, Any]) -> tuple[str, ...]:
    forward, train = row["forward"], row["train"]
    cut = [_quartiles(forward, "cut_ratio")] if "devices" in forward else []
    ratios = [[_quartiles(forward, "ratio"), *cut, _aim(forward)], [_quartiles(train, "ratio"), _aim(train)]]
    return (
        row["network"] + ("" if row["dtype"] == "float32" else f" {row['dtype']}"),
        str(row["batch"]),
        *(cell for cells in ratios for cell in cells),
        "; ".join(f"{p['seconds']['jtl']:.3g} to {p['seconds']['torch']:.3g}" for p in (forward, train)),
        "-" if train["mfu"] is None else f"{100 * train['mfu']:.0f} %",
    )


def _quartiles(part: dict[str, Any], name: str) -> str:
    low, high = part[f"{name}_quartiles"]
    return f"{part[name]:.2f} ({low:.2f} to {high:.2f})"


def _aim(part: dict[str, Any]) -> str:
    return "-" if part["aim"] is None else f"{part['aim']:g}"


def _batch(row: dict[str, Any]) -> str:
    if row["family"] in ("dann", "cdan", "mmd", "mcd"):
        return f"{row['batch']}+{row['batch']}"
    if row["family"] == "maml":
        return f"{row['batch']} tasks x {row['classes']}x({row['shot']}+{row['query']})"
    return str(row["batch"])


def _backbones(rows: list[dict[str, Any]]) -> Table:
    columns = ("network", "input", "parameters, million", "GFLOP", "published top 1", "measured, test images")
    return Table(
        "backbones; the input is one image, text of tokens, second of samples or spectrogram",
        columns,
        [_backbones_row(row) for row in rows],
    )


def _backbones_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["network"],
        row["example"],
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['flops'] / 1e9:.{3 if row['flops'] < 1e12 else 4}g}",
        "" if row["published"] is None else f"CIFAR-10 {row['published']:.2f} %",
        "" if row["right"] is None else "{} of {}".format(*row["right"]),
    )


def _recipe(rows: list[dict[str, Any]]) -> Table:
    scores = {tuple(row["way"][:-1]): row["mean"] for row in rows if row["way"][-1] == "clustering"}
    shown = [row for row in rows if row["way"][-1] not in ("loss", "clustering")]
    gains = any("gain" in row for row in shown)
    title = "test accuracy in percent" + (", mean and deviation; paired gain with its 95 % interval" if gains else "")
    columns = ("way", "accuracy", *(("gain", "over") if gains else ()), *(("clustering",) if scores else ()))
    cells = [_recipe_row(row, gains) for row in shown]
    if scores:
        told = [scores.get(tuple(row["way"][:-1])) for row in shown]
        cells = [(*row, "-" if score is None else f"{score:.3f}") for row, score in zip(cells, told, strict=True)]
    return Table(title, columns, cells)


def _recipe_row(row: dict[str, Any], gains: bool) -> tuple[str, ...]:
    names = [name for name in row["way"] if name != "accuracy"]
    spread = f" ± {100 * row['std']:.1f}, {len(row['seeds'])} seeds" if "seeds" in row else ""
    found = ", ".join(names), f"{100 * row['mean']:.1f}{spread}"
    if not gains:
        return found
    if "gain" not in row:
        return *found, "-", "-"
    shown = "" if row["gain"] > row["half"] else "not shown: "
    return *found, f"{shown}{row['gain']:+.1f} ± {row['half']:.1f}", row["over"]


def _loads(rows: list[dict[str, Any]]) -> Table:
    columns = ("weights", "MB", "read s", "load s", "load / read", "first load s", "first / read", "memory / file")
    return Table("jtl.load beside reading the bytes", columns, [_load(row) for row in rows])


def _load(row: dict[str, Any]) -> tuple[str, ...]:
    low, middle, high = row["load_over_read"]
    return (
        row["weights"],
        f"{row['file_bytes'] / 1e6:.0f}",
        f"{row['read_seconds']:.3f}",
        f"{row['load_seconds']:.3f}",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        f"{row['first_load_seconds']:.2f}",
        f"{row['first_load_over_read']:.1f}",
        f"{row['memory_over_file']:.3f}",
    )


def _elsewhere(rows: list[dict[str, Any]]) -> Table:
    columns = (
        "network",
        "devices",
        "batch of each",
        "temporaries GB",
        "arguments GB",
        "traffic GB",
        "TFLOP",
        "operations",
    )
    return Table("training steps in bfloat16, compiled and not run", (*columns, "collectives"), [*map(_compiled, rows)])


def _compiled(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["network"] + (", fused attention" if row["fused_attention"] else ""),
        str(row["devices"]),
        str(row["batch"]),
        *(f"{row[part] / 1e9:.2f}" for part in ("temporary_bytes", "argument_bytes")),
        "-" if row["traffic_bytes"] is None else f"{row['traffic_bytes'] / 1e9:.1f}",
        f"{row['model_flops'] / 1e12:.2f}",
        str(row["operations"]),
        ", ".join(f"{count} {name}" for name, count in row["collectives"].items()) or "-",
    )


_TABLES: dict[str, Callable[[list[dict[str, Any]]], Table | list[Table]]] = {
    "step_throughput": _throughput,
    "against_torch": _against,
    "against_transformers": _transformers,
    "recipe": _recipe,
    "backbones": _backbones,
    "load_weights": _loads,
    "elsewhere": _elsewhere,
    **METHODS,
}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).with_suffix(".md").write_text(render(json.loads(Path(name).read_text())))
