"""Kills training runs with SIGKILL, at random steps and in the middle of saves, and compares the bits.

    python benchmarks/kill_resume.py 16

Every family trains 40 steps without interruption, once on 1 device and once on 8. Then the same runs are killed, N
times in total, and restarted each time in a fresh process. They must end with the state of the first run: every bit of
parameters, statistics, optimizer, averages and key.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("finetune", "features", "dann", "maml")
STEPS, EVERY, SEED = 40, 9, 0


class Kill(NamedTuple):
    """Where a run was killed: at a step, or while a save was in flight."""

    devices: int
    family: str
    step: int
    saving: bool


class Report(NamedTuple):
    """All kills, and the digests of the uninterrupted and of the killed runs by (devices, family)."""

    kills: list[Kill]
    unbroken: dict[tuple[int, str], str]
    killed: dict[tuple[int, str], str]


def campaign(kills: int, *, devices: tuple[int, ...] = (1, 8), seed: int = SEED, folder: Path, say=print) -> Report:
    """Runs everything; kills cycle through device counts and families, every other one in the middle of a save."""
    rng = random.Random(seed)
    cells = list(itertools.product(devices, FAMILIES))
    planned = [(*cells[i % len(cells)], (i + i // len(cells)) % 2 == 1) for i in range(kills)]
    done: list[Kill] = []
    unbroken, killed = {}, {}
    for count in devices:
        unbroken |= _finish(count, folder / f"unbroken{count}", folder)
        for family in FAMILIES:
            for saving in sorted(s for d, f, s in planned if (d, f) == (count, family)):
                where = folder / f"killed{count}"
                done.append(_kill(count, family, saving, where, folder, rng))
                last = done[-1]
                say(f"killed {family} on {count} devices at step {last.step}" + " in a save" * last.saving)
        killed |= _finish(count, folder / f"killed{count}", folder)
        for family in FAMILIES:
            same = unbroken[count, family] == killed[count, family]
            say(f"{family} on {count} devices: {'the same bits' if same else 'OTHER BITS'}")
    return Report(done, unbroken, killed)


def _start(devices: int, families: tuple[str, ...], where: Path, folder: Path) -> subprocess.Popen:
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, __file__, "--worker", *families, "--folder", str(where)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(devices: int, where: Path, folder: Path) -> dict[tuple[int, str], str]:
    process = _start(devices, FAMILIES, where, folder)
    out, err = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"the worker on {devices} devices failed:\n{err[-4000:]}")
    rows = [line.split() for line in out.splitlines() if line.startswith("digest ")]
    return {(devices, family): digest for _, family, digest in rows}


def _kill(devices: int, family: str, saving: bool, where: Path, folder: Path, rng: random.Random) -> Kill:
    """Starts a run, waits for a random step, or for a save in flight after it, and kills."""
    directory = where / family
    finished = {int(p.parent.name[5:]) for p in directory.glob("step_*/manifest.json")}
    begun = max(finished, default=0)
    room = STEPS - begun - (EVERY if saving else 4)
    target = begun + 1 + rng.randrange(max(room, 1))
    process = _start(devices, (family,), where, folder)
    assert process.stdout is not None
    reached = 0
    for line in process.stdout:
        if line.startswith("step "):
            reached = int(line.split()[1])
            if reached >= target:
                break
    while saving and process.poll() is None and _unsealed(directory, finished) is None:
        time.sleep(0.0005)
    ended = process.poll() is not None
    process.kill()
    _, err = process.communicate()
    if ended:
        raise RuntimeError(f"{family} on {devices} devices ended before it was killed:\n{err[-4000:]}")
    half = _unsealed(directory, finished)
    return Kill(devices, family, reached if half is None else half, half is not None)


def _unsealed(directory: Path, finished: set[int]) -> int | None:
    steps = (int(path.name[5:]) for path in directory.glob("step_*") if not (path / "manifest.json").exists())
    return next((step for step in steps if step not in finished), None)


def work(families: list[str], folder: Path) -> None:
    """The worker: trains each family to the end, or continues where an earlier worker was killed."""
    import jax

    from jtl import train

    for family in families:
        step, variables, data = build(family)
        saver = train.Checkpoints(folder / family, every=EVERY, recipe=f"kill_resume {family}")

        def tell(moment: Any) -> None:
            print("step", moment.step, flush=True)
            time.sleep(0.02)  # so that a kill aimed at a step hits near it

        state = step.init(variables, jax.random.key(SEED))
        state = train.fit(step, state, data, steps=STEPS, checkpoints=saver, hooks=[tell], progress=False).state
        print("digest", family, digest(state), flush=True)


def digest(state: Any) -> str:
    """SHA-256 of every bit of a state."""
    import jax
    import numpy as np

    state = state._replace(key=jax.random.key_data(state.key))
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()


def build(family: str) -> tuple[Any, Any, Any]:
    """A small network of the family: with dropout, BatchNorm, averages and clipping."""
    import jax
    import numpy as np
    import optax

    from jtl import backbones, heads
    from jtl.methods.adapt.adapt import adapt
    from jtl.methods.adapt.dann import dann, weight_schedule
    from jtl.methods.finetune.features import features
    from jtl.methods.finetune.finetune import finetune
    from jtl.methods.meta.maml import maml
    from jtl.methods.meta.update_rules import learned_rate
    from jtl.networks import network
    from jtl.params import select
    from jtl.train import make_step

    data = _Data(family)
    key = jax.random.key(SEED)
    x = data.images(0, 2)
    if family == "finetune":
        net = network(backbone=backbones.conv4(4), head=heads.linear(5, dropout=0.2))
        variables = net.init(key, x)
        return make_step(finetune(net), optax.adamw(1e-2), ema=0.9, clip=1.0), variables, data
    net = network(backbone=backbones.mlp((16,), dropout=0.1), head=heads.linear(5))
    if family == "features":
        variables = net.init(key, x)
        step = make_step(features(net), optax.sgd(0.1, momentum=0.9), trainable=select("head/.*"))
        return step, variables, data
    if family == "dann":
        critic = heads.mlp(1, (8,), dropout=0.1)
        method = adapt(net, alignments=[dann(critic, weight_schedule(STEPS))])
        rows = {"x": x, "y": np.zeros(2, np.int32)}
        variables = method.init(key, {"source": rows, "target": rows})
        return make_step(method, optax.adam(1e-2)), variables, data
    method = maml(finetune(net), learned_rate(), steps=2)
    return make_step(method, optax.adam(1e-2)), method.init(key, data[0]), data


class _Data:
    """Batches of 16 images of 16 x 16, a function of the step."""

    def __init__(self, family: str):
        self.family = family

    def __len__(self) -> int:
        return 10

    def images(self, seed: int, n: int) -> Any:
        import numpy as np

        return np.random.default_rng(seed).normal(size=(n, 16, 16, 1)).astype(np.float32)

    def __getitem__(self, step: int) -> dict[str, Any]:
        import numpy as np

        def rows(seed, *lead):
            x = self.images(seed, int(np.prod(lead))).reshape(*lead, 16, 16, 1)
            return {"x": x, "y": (np.abs(x).sum((-3, -2, -1)) * 10).astype(np.int32) % 5}

        if self.family == "dann":
            return {"source": rows(2 * step, 16), "target": rows(2 * step + 1, 16)}
        if self.family == "maml":
            return {"support": rows(2 * step, 8, 5), "query": rows(2 * step + 1, 8, 10)}
        return rows(step, 16) | {"mask": np.arange(16) < 16 - step % 4}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", nargs="?", type=int, default=16)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--worker", nargs="+", choices=FAMILIES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.folder)
    with tempfile.TemporaryDirectory() as folder:
        report = campaign(options.kills, seed=options.seed, folder=Path(folder))
    wrong = [cell for cell in report.unbroken if report.unbroken[cell] != report.killed[cell]]
    in_saves = sum(kill.saving for kill in report.kills)
    print(f"{len(report.kills)} kills, {in_saves} of them in a save; {len(wrong)} runs of {len(report.killed)} differ")
    if options.json:
        kills = [kill._asdict() for kill in report.kills]
        options.json.write_text(json.dumps({"kills": kills, "runs": len(report.killed), "wrong": len(wrong)}, indent=1))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
