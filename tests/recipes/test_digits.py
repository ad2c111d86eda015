import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jtl import cli
from jtl.backbones import conv4
from jtl.extras import NotInstalled
from jtl.recipes import digits
from jtl.recipes.parts import comparison, digits_data, digits_few, digits_pictures, digits_shift, digits_transfer
from jtl.recipes.parts.base import command
from jtl.report import markdown, spread

QUICK = [
    *("--seeds", "2", "--transfer.pretrain-steps", "3", "--transfer.steps", "2", "--shift.steps", "3"),
    *("--few.steps", "2", "--few.scratch-steps", "2", "--few.test-tasks", "2", "--few.shots", "1"),
]


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.first
def test_the_demo_with_tiny_numbers(tmp_path, capsys):
    """One test, as it compiles for a minute: what it leaves, what its exit code says, what its checkpoint is for."""
    code = cli.main(["demo", "--out", str(tmp_path), *QUICK])
    it_leaves_what_it_promises(tmp_path)
    its_exit_code_is_that_of_the_claims(tmp_path, code)
    its_checkpoint_predicts_its_example(tmp_path, capsys)


def it_leaves_what_it_promises(out):
    for name in ("demo.png", "features.png", "confusion.png", "curves_a.png", "curves_b.png", "curves_c.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 100
    results = json.loads((out / "results.json").read_text())
    assert [len(ways) for ways in results.values()] == [5, 2, 3]
    for ways in results.values():
        for found in ways.values():
            assert len(found["seeds"]) == 2
            assert (found["mean"], found["std"]) == spread(found["seeds"])
    table = (out / "table.md").read_text()
    assert all(name in table for ways in results.values() for name in ways)


def its_exit_code_is_that_of_the_claims(out, code):
    stages = json.loads((out / "results.json").read_text()).values()
    gains = [found for ways in stages for found in ways.values() if "gain" in found]
    assert len(gains) in (6, 7), "three or four over the better baseline of (a), one in (b), and two in (c)"
    claimed = [found for ways in stages for name, found in ways.items() if "gain" in found and "classifier" not in name]
    assert len(claimed) == len(gains) - 1
    assert code == (0 if all(found["gain"] > found["half"] for found in claimed) else 1)


def its_checkpoint_predicts_its_example(out, capsys):
    capsys.readouterr()
    (example,) = out.glob("digit_*.png")
    assert cli.main(["predict", str(out / "checkpoints"), str(example), "--top", "10"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{example}: ")
    assert sorted(word for word in said.split(": ")[1].split() if word.isdigit()) == list(digits.CLASSES)


def test_claims_fail_by_name_where_the_interval_includes_zero():
    """Student's t of 2 degrees of freedom is 4.303 at 97.5 % (any table), so deviation 1 over 3 seeds is ± 2.484."""
    base, noise = np.full(3, 0.5), np.array([-0.01, 0.0, 0.01])
    ways = {"base": base, "same": base, "weak": base + 0.02 + noise, "better": base + 0.03 + noise, "lower": base - 0.1}
    found = comparison.Comparison("(x)", {"base": ("same", "weak", "better")}, ways, {})
    said = comparison.failures([found])
    assert [line.split("the gain of ")[1].split(" over")[0] for line in said] == ["same", "weak"]
    cells = {row[1]: row[3] for row in comparison.rows(found)}
    assert cells["base"] == "baseline"
    assert cells["lower"] == "weaker baseline"
    assert cells["better"] == "+3.0 ± 2.5"
    assert cells["weak"] == "not shown: +2.0 ± 2.5"
    assert comparison.gains(found)["better"].half == pytest.approx(4.30265 / np.sqrt(3), abs=1e-4)
    assert "| (x)" in markdown(comparison.table([found], 3))


def test_a_further_baseline_has_a_gain_and_is_no_claim():
    base, noise = np.full(3, 0.5), np.array([-0.01, 0.0, 0.01])
    ways = {"base": base, "other": base - 0.1 + noise, "better": base + 0.03 + noise}
    found = comparison.Comparison("(x)", {"base": ("better",)}, ways, {}, {"base": ("other",)})
    assert not comparison.failures([found])
    assert {row[1]: row[3] for row in comparison.rows(found)}["other"] == "not shown: -10.0 ± 2.5"
    assert comparison.numbers([found])["(x)"]["other"]["over"] == "base"


def test_one_seed_shows_no_gain():
    found = comparison.Comparison("(x)", {"base": ("better",)}, {"base": [0.5], "better": [0.9]}, {})
    assert comparison.rows(found)[1][3] == "not shown: +40.0, one seed"
    assert len(comparison.failures([found])) == 1
    assert "gain" not in comparison.numbers([found])["(x)"]["better"], "JSON has no infinity"


def test_the_summary_marks_what_is_shown_and_nothing_else(tmp_path):
    """Blue is a gain above zero, pale one whose interval includes zero."""
    noise = np.array([-0.01, 0.0, 0.01])
    images, labels = np.zeros((2, 8, 8, 1)), np.array([3, 4])

    def pixels(gain, colour):
        ways = {"base": 0.5 + 0 * noise, "way": 0.5 + gain + noise}
        stage = comparison.Comparison("(x)", {"base": ("way",)}, ways, {})
        with Image.open(digits_pictures.summary([stage], images, labels, tmp_path / "a.png")) as image:
            found = np.asarray(image.convert("RGB")).astype(int)
        return (np.abs(found - colour).sum(-1) < 6).sum()

    blue, pale = [31, 119, 180], [166, 200, 224]
    assert pixels(0.3, blue) > 1000
    assert pixels(0.3, pale) < 50, "but for blurred edges"
    assert pixels(0.0, blue) < 50
    assert pixels(0.0, pale) > 1000


def test_the_command_of_a_run_makes_the_same_recipe_again():
    recipe = digits.Recipe(out=Path("a b"), seed=7, few=digits_few.Few(shots=(1, 2, 3), inner_lr=0.25))
    words = command("digits", recipe)
    assert words == "jtl train digits --out 'a b' --seed 7 --few.shots 1 2 3 --few.inner-lr 0.25"
    import shlex

    again = cli._load("digits", shlex.split(words)[3:], "jtl")
    assert command("digits", again) == words
    with pytest.raises(ValueError, match="--backbone was changed in Python"):
        command("digits", replace(recipe, backbone=recipe.few_backbone))


@pytest.mark.slow
@pytest.mark.compiling
def test_the_baseline_of_the_shift_does_not_see_the_target(key):
    """The target turned further changes the losses of DANN and MCC on the source, by BatchNorm; the baseline's stay."""
    x, y = digits_data.load()
    body, keys = conv4(4), jax.random.split(key, 1)
    curves = [
        digits_shift.run(body, digits_shift.Shift(degrees=degrees, steps=3, batch=8), x, y, keys)[0].curves
        for degrees in (25.0, 90.0)
    ]
    np.testing.assert_array_equal(*(found["source only"] for found in curves))
    for name in ("DANN", "MCC"):
        assert not np.array_equal(*(found[name] for found in curves))


def test_support_sets_have_the_shots_they_name():
    _, y = digits_data.load()
    rows = digits_data.support(y, digits_transfer.DIGITS, 5, seed=3)
    assert len(set(rows)) == 50
    np.testing.assert_array_equal(np.sort(y[rows]), np.repeat(range(10), 5))


def test_ink_is_a_sign_that_leaves_the_digit(key):
    x, _ = digits_data.load()
    mixed = np.asarray(digits_data.ink(key, x[:400]))
    np.testing.assert_allclose(np.abs(mixed), np.abs(2 * x[:400] - 1), atol=1e-7)
    bright = (mixed * (2 * x[:400] - 1)).sum((1, 2, 3)) > 0
    assert 140 < bright.sum() < 260, "a coin: 200 ± 6 deviations"


def test_noise_has_its_deviation(key):
    noise = np.asarray(digits_data.noisy(key, np.zeros((500, 8, 8, 1), np.float32), 0.5)) + 1
    # 32,000 values of deviation 1 after the scaling by 2: their own deviation is known to 1/sqrt(64,000) = 0.004.
    assert abs(noise.std() - 1.0) < 0.02
    assert abs(noise.mean()) < 0.03


def test_an_image_file_reads_back_as_it_was(tmp_path):
    x, _ = digits_data.load()
    for image in 2 * x[:4] - 1:
        # One pixel a pixel, so nothing is resized: 8 bits round to half of 2/255.
        found = digits_data.read(digits_data.write(image, tmp_path / "a.png", scale=1))
        np.testing.assert_allclose(found, image, atol=1 / 255 + 1e-6)
        large = digits_data.read(digits_data.write(image, tmp_path / "b.png"))
        # The antialias filter is two pixels wide and blends in the neighbours.
        assert np.corrcoef(large.ravel(), image.ravel())[0, 1] > 0.9


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(NotInstalled, match=r"pip install 'jtl\[demo\]'"):
        digits_data.load()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: digits_few.Few(way=4), "only 3 digits are unseen"),
        (lambda: digits_few.Few(shots=()), "at least one number"),
        (lambda: digits_shift.Shift(steps=0), "steps=0"),
        (lambda: digits_transfer.Transfer(shot=0), "shot=0"),
    ],
)
def test_numbers_out_of_range_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_the_headline_is_the_largest_gain_that_is_shown():
    wide, sure, small = [[0.1, 0.9, 0.5], [0.5, 0.6, 0.52], [0.12, 0.13, 0.125]]
    zero = [0.0, 0.1, 0.02]
    one = comparison.Comparison("first", {"base": ("wide", "small")}, {"base": zero, "wide": wide, "small": small}, {})
    two = comparison.Comparison("second", {"start": ("sure",)}, {"start": zero, "sure": sure}, {})
    assert comparison.headline((one, two)).startswith("Largest gain: sure +50.0 ± ")
    assert comparison.headline((one, two)).endswith(" points over start; second")
    none = comparison.Comparison("first", {"base": ("wide",)}, {"base": zero, "wide": wide}, {})
    assert comparison.headline((none,)) == ""
