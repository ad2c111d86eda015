"""NaN, infinities and huge numbers in inputs, labels and masked rows."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.injected.trials import Trial, told

VALUES = (math.nan, math.inf, -math.inf, 3e20, -1e25, 3e38)
LABELS = (-1, 5, 1000, -(2**31), 2**31 - 1)
FROM, ROW = 5, 3


def inputs(folder: Path, number: int, seed: int) -> list[Trial]:
    """Spoils one number of one batch: an error, or a finite state that is saved and resumed with the same bits."""
    return [
        _refused(family, "input", rng.choice(VALUES), folder / f"{family}{i}")
        for family, i, rng in _turns(number, seed)
    ]


def labels(folder: Path, number: int, seed: int) -> list[Trial]:
    """Sets one label of one batch to no class: this is always an error."""
    return [
        _refused(family, "label", rng.choice(LABELS), folder / f"{family}{i}")
        for family, i, rng in _turns(number, seed)
    ]


def masked(folder: Path, number: int, seed: int) -> list[Trial]:
    """Spoils a masked row: the bits must be those of a run in which it holds zeros."""
    trials: list[Trial] = []
    wanted: dict[str, str] = {}
    for family, i, rng in _turns(number, seed):
        if family not in wanted:
            wanted[family], _ = _fitted(family, folder / f"{family}_zeros", lambda batch: _masked(batch, 0, 0))
        value, label = rng.choice(VALUES), rng.choice(LABELS)

        def spoil(batch: Any, value: float = value, label: int = label) -> Any:
            return _masked(batch, value, label)

        found, error = _fitted(family, folder / f"{family}{i}", spoil)
        same = error is None and found == wanted[family]
        detail = f"{family}, input {value}, label {label}: {error!r}"
        trials.append(Trial("bad masked row", "survived" if same else "wrong", detail))
    return trials


def _turns(number: int, seed: int) -> list[tuple[str, int, random.Random]]:
    from benchmarks.injected import runs

    rng = random.Random(seed)
    return [(runs.FAMILIES[(i + seed) % len(runs.FAMILIES)], i, rng) for i in range(number)]


def _refused(family: str, where: str, value: float, place: Path) -> Trial:
    from benchmarks.injected import runs

    def spoil(batch: Any) -> Any:
        for part in _parts(batch)[:1]:
            if where == "label":
                part["y"] = part["y"].copy()
                part["y"].reshape(-1)[ROW] = value
            else:
                part["x"] = part["x"].copy()
                part["x"].reshape(-1)[ROW] = value
        return batch

    found, error = _fitted(family, place, spoil)
    kind, detail = f"bad {where}", f"{family}, {value}: {str(error)[:300]}"
    if error is not None:
        return Trial(kind, "told" if told(error, "step ", "label") and _sound(place) else "wrong", detail)
    if where == "label":
        return Trial(kind, "wrong", f"{detail}: no error")
    again, _ = _fitted(family, place.with_name(f"{place.name}_again"), spoil)
    good = again == found and _sound(place)
    return Trial(kind, "survived" if good else "wrong", f"{detail}: {runs.STEPS} finite steps, again {again == found}")


def _sound(place: Path) -> bool:
    """Whether every number that was saved is finite."""
    import jax

    import jtl

    saver = jtl.Checkpoints(place)
    return all(
        bool(np.isfinite(np.asarray(leaf, np.float32)).all())
        for step in saver.steps()
        for leaf in jax.tree.leaves(saver.variables(step=step))
    )


def _fitted(family: str, place: Path, spoil: Any) -> tuple[str, Exception | None]:
    """Returns the digest of a run whose batch `FROM` is spoiled, or the error."""
    import jax

    import jtl
    from benchmarks.injected import runs
    from benchmarks.kill_resume import build

    step, variables, data = build(family)
    spoilt = runs.Spoiled(data, lambda at, batch: spoil(_whole(batch)) if at == FROM else _whole(batch))
    state = step.init(variables, jax.random.key(0))
    options: dict[str, Any] = {"checkpoints": jtl.Checkpoints(place, every=3), "progress": False}
    try:
        return runs.digest(jtl.fit(step, state, spoilt, steps=runs.STEPS, **options).state), None
    except (ArithmeticError, ValueError) as error:
        return "", error


def _parts(batch: Any) -> list[Any]:
    """The dicts of a batch that hold rows: the batch itself, or its views."""
    return (
        [batch] if "x" in batch else [batch[name] for name in ("source", "target", "support", "query") if name in batch]
    )


def _whole(batch: Any) -> Any:
    """Adds masks to the batch, because all batches of a run have the same leaves."""
    for part in _parts(batch):
        part.setdefault("mask", np.ones(part["y"].shape, bool))
    return batch


def _masked(batch: Any, value: float, label: int) -> Any:
    """The batch with one masked, spoiled row in each of its parts."""
    for part in _parts(batch):
        mask = part["mask"].copy()
        mask[..., 0] = False
        part["mask"], part["x"], part["y"] = mask, part["x"].copy(), part["y"].copy()
        part["x"][..., 0, :, :, :] = value
        part["y"][..., 0] = label
    return batch
