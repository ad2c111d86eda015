"""A folder of sounds by class, from end to end: two tones, and a small network of waves with random weights."""

import json
import shutil

import jax
import made
import numpy as np
import pytest

from jtl import cli
from jtl.command import inference
from jtl.command.model import inputs_of
from jtl.methods.finetune.finetune import predictor
from jtl.preprocess import audio
from jtl.pretrained.load import load


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pytest.importorskip("soundfile")
    root = tmp_path_factory.mktemp("sounds")
    for seed, (name, hertz) in enumerate((("high", 3000), ("low", 200))):
        made.tones(root / "sounds" / name, hertz, ("anna", "ben", "carl"), seed)
    made.of_sounds(root / "net")
    return root


@pytest.fixture(scope="module")
def run(world):
    words = ["finetune", str(world / "sounds"), "--weights", str(world / "net"), "--group", "^[a-z]*"]
    assert cli.main([*words, "--out", str(world / "run")]) == 0
    return world / "run"


def test_a_run_on_sounds_is_split_by_speaker_and_reported(run):
    about = json.loads((run / "run.json").read_text())
    assert about["kind"] == "sounds"
    assert about["classes"] == ["high", "low"]
    assert np.sum(about["test"]["confusion"]) == 8  # one of three speakers
    page = (run / "report.html").read_text()
    assert "data:audio/wav;base64," in page


def test_it_predicts_and_is_evaluated(world, run, capsys, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoints"))
    assert cli.main(["eval", str(moved), str(world / "sounds")]) == 0
    loaded, files = load(run / "model"), sorted((world / "sounds").glob("*/*"))
    x = audio.inputs(loaded.preprocessing, files, seconds=750 / 16000)
    best = jax.jit(predictor(loaded.network))(loaded.variables, x).argmax(-1)
    right = np.mean([loaded.labels[i] == file.parent.name for i, file in zip(best, files, strict=True)])
    assert f"accuracy {100 * right:.1f} % of 24" in capsys.readouterr().out
    assert right > 0.6  # of random weights: chance is a half
    assert cli.main(["predict", str(moved), str(world / "sounds" / "low"), "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert cli.main(["predict", str(moved), str(world / "net")]) == 2
    assert "no sound in" in capsys.readouterr().err


def test_predictions_do_not_depend_on_the_other_files(world, run, tmp_path, capsys):
    """Without a mask the network hears padding, so the length of the rows is that of the run."""
    soundfile = pytest.importorskip("soundfile")
    files = [str(world / "sounds" / "low" / f"anna_{i}.wav") for i in (0, 3)]
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(size=4000) / 9, 16000)
    about = json.loads((run / "run.json").read_text())
    assert about["seconds"] == 750 / 16000
    found = inference.predict(run / "model", [*files, str(tmp_path / "long.wav")])
    assert found.notes == ["1 of 3 sounds are longer than 0.047 seconds: the rest of these is not used"]
    for file, shares in zip(files, found.values, strict=False):
        np.testing.assert_allclose(inference.predict(run / "model", [file]).values[0], shares, rtol=1e-5)
    words = ["--weights", str(run / "model"), "--out"]
    for name, more in (("a.npz", []), ("b.npz", [str(tmp_path / "long.wav")])):
        assert cli.main(["features", files[0], *more, *words, str(tmp_path / name)]) == 0
    assert "note: 1 of 2 sounds are longer than 0.047 seconds" in capsys.readouterr().err
    with np.load(tmp_path / "a.npz") as alone, np.load(tmp_path / "b.npz") as both:
        np.testing.assert_allclose(alone["features"][0], both["features"][0], rtol=1e-5)
    older = shutil.copytree(run, tmp_path / "older")
    del about["seconds"]
    (older / "run.json").write_text(json.dumps(about))
    assert inference.predict(older / "model", files).notes == []


def test_other_examples_set_the_length_of_masked_sounds_alone(world):
    loaded, files = load(world / "net"), [world / "sounds" / "low" / f"anna_{i}.wav" for i in (0, 3)]
    masked = loaded._replace(preprocessing=loaded.preprocessing._replace(masked=True))
    for net, samples in ((loaded, 600), (masked, 750)):
        inputs, _ = inputs_of(net, "net", "sounds", files[:1], None, others=files[1:])
        assert inputs.seconds == samples / 16000
    assert inputs_of(loaded, "net", "sounds", files, None, seconds=0.02)[0].seconds == 0.02
    assert inputs_of(masked, "net", "sounds", files, None, seconds=0.02)[0].seconds == 750 / 16000


def test_lengths_are_found_without_resampling(world, tmp_path, monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    files = [tmp_path / name for name in ("short.wav", "long.wav")]
    for file, samples in zip(files, (100, 2001), strict=True):
        soundfile.write(file, np.ones(samples) / 9, 44100)
    with monkeypatch.context() as without:
        without.setattr(audio, "resample", None)
        inputs, _ = inputs_of(load(world / "net"), "net", "sounds", files, None)
    assert inputs.seconds == len(audio.read(files[1], 16000)) / 16000
    files[1].write_bytes(files[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"long.wav' is cut off"):
        inputs_of(load(world / "net"), "net", "sounds", files, None)


def test_sounds_become_input_as_by_the_network_s_own_preprocessing(world):
    loaded, files = load(world / "net"), sorted((world / "sounds" / "low").iterdir())
    inputs, _ = inputs_of(loaded, "net", "sounds", files, None)
    found, expected = inputs.read(files[:2]), audio.inputs(loaded.preprocessing, files[:2], seconds=750 / 16000)
    np.testing.assert_array_equal(found["wave"], expected["wave"])
    assert found["wave"].shape == (2, 750)  # the longest of all files
    with pytest.raises(ValueError, match="'net' is no network of sounds"):
        inputs_of(loaded._replace(preprocessing=None), "net", "sounds", files, None)
    with pytest.raises(ValueError, match="'net' takes no images"):
        inputs_of(loaded, "net", "images", files, None)


def test_features_of_sounds_and_sounds_that_are_cut(world, tmp_path):
    words = ["features", str(world / "sounds"), "--weights", str(world / "net"), "--out", str(tmp_path / "f.npz")]
    assert cli.main(words) == 0
    with np.load(tmp_path / "f.npz") as found:
        assert found["features"].shape == (24, 6)
    soundfile = pytest.importorskip("soundfile")
    long = tmp_path / "long.WAV"
    soundfile.write(long, np.random.default_rng(0).normal(size=(44100 * 11, 2)) / 9, 44100)  # stereo, eleven seconds
    loaded, files = load(world / "net"), sorted((world / "sounds" / "low").iterdir())
    inputs, _ = inputs_of(loaded, "net", "sounds", [*files, long], None)
    assert inputs.note([*files, long]) == "1 of 13 sounds are longer than 10 seconds: the rest of these is not used"
    assert inputs.note(files) is None
    wave = inputs.read([long])["wave"]
    assert wave.shape == (1, 160000)
    left, right = soundfile.read(long)[0].T
    whole = audio.resample(((left + right) / 2).astype(np.float32), 44100, 16000)[:160000]
    np.testing.assert_allclose(wave[0], (whole - whole.mean()) / whole.std(), atol=1e-3)
