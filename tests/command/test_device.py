"""Runs of the commands on several devices: which are used, and that the numbers are those of one device."""

from pathlib import Path

import jax
import made
import numpy as np
import pytest
from PIL import Image

import jtl
from jtl import cli
from jtl.command.device import number_of, training_mesh
from jtl.command.settings import Settings
from jtl.command.tune import run


@pytest.mark.parametrize(
    ("batch", "there", "platform", "count"),
    [(32, 8, "gpu", 8), (32, 6, "tpu", 4), (7, 4, "gpu", 1), (7, 8, "gpu", 7), (32, 1, "gpu", 1), (32, 8, "cpu", 1)],
)
def test_accelerators_that_divide_the_batch_are_used(batch, there, platform, count):
    assert number_of(batch, there, platform) == count


@pytest.mark.parametrize("devices", [3, 9])
def test_a_number_that_does_not_fit_is_refused_with_those_that_do(devices):
    with pytest.raises(ValueError, match=rf"devices={devices}: .* 32 examples on 8 devices .* over 1, 2, 4, 8; give"):
        number_of(32, 8, "gpu", devices)


def test_the_head_alone_has_no_use_for_devices():
    with pytest.raises(ValueError, match="devices=2 with ways='head'"):
        Settings(Path("photos"), "net", devices=2)


def test_what_is_used_is_told():
    said = []
    assert training_mesh(8, 4, said.append).size == 4
    assert training_mesh(8, None, said.append).size == 1
    assert said == [
        f"4 of {jax.device_count()} devices train, with 2 of 8 examples per step on each",
        f"1 of {jax.device_count()} devices train, with 8 of 8 examples per step on each",
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Red and green photos by day and, darker, by night, and a small network of images.

    Every fourth photo has the other colour, because p - 1 has few correct digits where a head is sure of all.
    """
    root, draw = tmp_path_factory.mktemp("devices"), np.random.default_rng(0)
    for time, light in (("day", 120), ("night", 80)):
        for channel, name in enumerate(("red", "green")):
            (root / time / name).mkdir(parents=True)
            for i in range(14):
                pixels = draw.integers(0, 90, (10, 9, 3)) + light * (
                    np.arange(3) == (channel if i % 4 else 1 - channel)
                )
                Image.fromarray(pixels.astype(np.uint8)).save(root / time / name / f"{i:02}.png")
    made.folder(root / "net", made.VIT)
    return root


@pytest.mark.parametrize("words", [["finetune", "day", "--ways", "all"], ["adapt", "day", "night", "--method", "mcc"]])
def test_a_number_that_does_not_fit_is_refused_before_anything_is_computed(world, words, monkeypatch, capsys):
    monkeypatch.chdir(world)
    assert cli.main([*words, "--weights", "net", "--batch", "8", "--devices", "3", "--out", "refused"]) == 2
    told = capsys.readouterr()
    assert "a batch of 8 examples" in told.err
    assert "features of" not in told.out
    assert not (world / "refused").exists()


def test_the_range_test_of_the_rate_says_that_it_uses_one_device(world, tmp_path, monkeypatch):
    def ended(*_, **__):
        raise KeyError

    monkeypatch.setattr("jtl.command.tune.lr_find", ended)
    said, options = [], {"steps": 1, "batch": 8, "find_rate": True, "devices": 2}
    with pytest.raises(KeyError):
        run(Settings(world / "day", str(world / "net"), tmp_path, "all", **options), said.append)
    assert said[-1] == "range test of the learning rate: one device, with all 8 examples of a batch"


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize(
    "words",
    [
        ["finetune", "day", "--ways", "all"],
        ["adapt", "day", "night", "--method", "shot", "--ways", "all"],
    ],
    ids=lambda words: words[0],
)
def test_two_devices_train_as_one(world, words, monkeypatch):
    monkeypatch.chdir(world)
    found = []
    for devices in ("1", "2"):
        run = world / f"{words[0]}-{devices}"
        # Adam's first steps have the size of the rate whatever the gradient, so its rounding errors are whole steps:
        # a rate that changes nothing leaves the gradients of two batches to compare.
        options = ["--weights", "net", "--steps", "2", "--batch", "8", "--learning-rate", "1e-9", "--seed", "0"]
        assert cli.main([*words, *options, "--devices", devices, "--out", str(run)]) == 0
        steps = jtl.train.read_json_lines(run / "metrics.jsonl")
        found.append([{name: row[name] for name in row if name not in ("seconds", "time")} for row in steps])
    one, two = found
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in ("loss", "grad_norm", "accuracy"):
            if name in a:
                np.testing.assert_allclose(b[name], a[name], rtol=1e-3, atol=1e-5)
