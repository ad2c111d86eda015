"""Sounds read from files, and what networks hear of them, against transformers' feature extractors."""

import io
import sys

import numpy as np
import pytest

from jtl.extras import NotInstalled
from jtl.preprocess import audio
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.spectrogram import log_mel, mel_filters

soundfile = pytest.importorskip("soundfile")
RNG = np.random.default_rng(0)


def tone(seconds, rate, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def speechlike(samples):
    """Noise of several colours that comes and goes, down to silence."""
    noise = np.convolve(RNG.normal(size=samples), [1, -0.9, 0.5], "same")
    return (0.1 * noise * np.abs(np.sin(np.arange(samples) / 2000)) + 0.1).astype(np.float32)


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_24")])
def test_a_file_is_read_as_it_was_written(suffix, subtype, tmp_path):
    """To a step of its numbers; of more than one block, two channels are averaged, and bytes do as well."""
    wave = tone(2.5, 8000)
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([1.5 * wave, 0.5 * wave], 1), 8000, subtype=subtype)
    found = audio.read(path, 8000)
    step = {"PCM_16": 2.0**-15, "PCM_24": 2.0**-23, "FLOAT": 0}[subtype]
    np.testing.assert_allclose(found, wave, rtol=0, atol=step + 1e-7)
    np.testing.assert_array_equal(audio.read(path.read_bytes(), 8000), found)


@pytest.mark.parametrize("before", [8000, 44100, 48000])
def test_resampling_keeps_a_tone(before):
    """A tone below both half rates is the same tone; the filter's ripple and its ends are left out."""
    found = audio.resample(tone(0.5, before), before, 16000)
    assert found.dtype == np.float32
    wanted = tone(0.5, 16000)
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found[800:-800], wanted[800:-800], rtol=0, atol=2e-3)


@pytest.mark.parametrize("before", [8000, 11025, 16000, 44100])
@pytest.mark.parametrize("samples", [1, 7, 4001])
def test_the_length_is_that_of_what_is_read(before, samples, tmp_path):
    soundfile.write(tmp_path / "tone.wav", np.ones(samples) / 9, before)
    assert audio.length(tmp_path / "tone.wav", 16000) == len(audio.read(tmp_path / "tone.wav", 16000))


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "good.flac", tone(1, 16000), 16000)
    good = (tmp_path / "good.flac").read_bytes()
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan], np.float32), 16000, subtype="FLOAT")
    (tmp_path / "slow.wav").write_bytes(_with_rate(tmp_path, 3))
    for name, said in {
        "text.wav": "text.wav' does not decode",
        "empty.wav": "empty.wav' holds no samples",
        "nan.wav": "nan.wav' holds NaN or infinity, first in sample 1",
        "slow.wav": "a sampling rate of 3 Hz",
    }.items():
        for read in (audio.read, audio.length):
            with pytest.raises(ValueError, match=said):
                read(tmp_path / name, 16000)
    with pytest.raises(FileNotFoundError, match=r"absent\.wav"):
        audio.read(tmp_path / "absent.wav", 16000)
    with pytest.raises(ValueError, match="the sound does not decode"):
        audio.read(good[:20], 16000)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for read in (lambda file: audio.read(file, 16000), audio.duration):
        with pytest.raises(NotInstalled, match=r"pip install 'jtl\[audio\]'"):
            read(tmp_path / "good.flac")


def test_a_file_that_is_cut_off_is_told(tmp_path):
    held = io.BytesIO()
    soundfile.write(held, tone(0.1, 16000), 16000, format="WAV", subtype="PCM_16")
    whole = held.getvalue()
    assert len(whole) == 44 + 2 * 1600
    with pytest.raises(ValueError, match=r"the sound is cut off: 1000 bytes of the samples .* are missing"):
        audio.read(whole[:-1000], 16000)
    more = whole[:12] + b"junk\x03\0\0\0abc\0" + whole[12:]  # a chunk of odd length, and one after the samples
    np.testing.assert_array_equal(audio.read(more + b"LIST\0\0\0\0", 16000), audio.read(whole, 16000))
    piped = whole[:40] + b"\xff\xff\xff\xff" + whole[44:]
    np.testing.assert_array_equal(audio.read(piped, 16000), audio.read(whole, 16000))
    soundfile.write(tmp_path / "a.flac", tone(1, 16000), 16000)
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"a\.flac' (does not decode|is cut off)"):
        audio.read(tmp_path / "a.flac", 16000)


def _with_rate(folder, rate):
    held = io.BytesIO()
    soundfile.write(held, tone(0.1, 16000), rate, format="WAV")
    return held.getvalue()


def test_damaged_files_are_read_or_refused():
    """2 of 3 changed bytes are in the sound itself and only change it; nothing but a ValueError comes out."""
    files = []
    for kind in ("WAV", "FLAC"):
        held = io.BytesIO()
        soundfile.write(held, speechlike(400), 16000, format=kind)
        files.append(held.getvalue())
    refused = 0
    for case in range(300):
        draw = np.random.default_rng(case)
        whole = bytearray(files[case % 2])
        place = draw.integers(0, 60 if draw.random() < 0.7 else len(whole))
        whole[place] = draw.integers(256)
        whole = whole[: draw.integers(len(whole)) if draw.random() < 0.3 else None]
        try:
            found = audio.read(bytes(whole), 16000)
        except ValueError:
            refused += 1
        else:
            assert found.ndim == 1
            assert np.isfinite(found).all()
    assert 30 < refused < 270


@pytest.mark.parametrize("masked", [True, False])
def test_waves_are_transformers(masked):
    """Each sound to mean 0 and variance 1 over its own samples, padded with zeros."""
    transformers = pytest.importorskip("transformers", reason="the reference is installed for Python 3.11 only")
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    sounds = [speechlike(700), speechlike(1203), speechlike(9)]
    theirs = extractor(sounds, sampling_rate=16000, padding=True, return_tensors="np")
    ours = audio.inputs(Waves(masked=masked), sounds)
    np.testing.assert_allclose(ours["wave"], theirs["input_values"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours["mask"], theirs["attention_mask"] if masked else np.ones((3, 1203)))
    cut = extractor(
        sounds, sampling_rate=16000, padding="max_length", max_length=1000, truncation=True, return_tensors="np"
    )
    ours = audio.inputs(Waves(masked=True), sounds, seconds=1 / 16)
    np.testing.assert_allclose(ours["wave"], cut["input_values"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours["mask"], cut["attention_mask"])
    plain = audio.inputs(Waves(normalise=False), sounds)
    np.testing.assert_array_equal(plain["wave"][1], sounds[1])


@pytest.mark.parametrize(
    "options",
    [{}, {"feature_size": 128, "chunk_length": 1}, {"feature_size": 5, "chunk_length": 2, "hop_length": 123}],
)
def test_log_mel_is_whispers(options):
    """To 1e-6 of its computation in float64; of the one in float32, by torch, to 1e-5 for sounds as loud in each band.

    (A band of little energy beside loud ones holds the rounding of the loud ones in float32, some 1e-4 of it.)
    """
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(**options)
    mine = LogMel(mels=extractor.feature_size, hop=extractor.hop_length, seconds=extractor.chunk_length)
    sounds = [RNG.normal(size=n).astype(np.float32) / 10 for n in (23456, 16000)]
    ours = audio.inputs(mine, sounds)
    theirs = extractor(sounds, sampling_rate=16000, return_tensors="np")["input_features"]
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 1), rtol=1e-5, atol=1e-5)
    rows = audio.pad([speechlike(30000)], mine.seconds * 16000)["wave"]
    exact = extractor._np_extract_fbank_features(rows, "cpu")
    ours = audio.inputs(mine, list(rows))
    np.testing.assert_allclose(ours, exact.transpose(0, 2, 1), rtol=1e-6, atol=1e-6)


def test_bands_end_at_half_the_rate():
    filters = mel_filters(40, 8000, 200)
    assert filters.shape == (101, 40)
    assert (filters.max(0) > 0).all()
    assert log_mel(tone(1, 8000), rate=8000, mels=40, window=200, hop=80).shape == (100, 40)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: audio.inputs(Waves(), "a.wav"), ValueError, "give a list"),
        (lambda: audio.inputs(Waves(), []), ValueError, "give a list"),
        (lambda: audio.inputs(Waves(), [np.zeros((2, 3), np.float32)]), TypeError, r"sounds\[0\] is float32 of shape"),
        (lambda: audio.inputs(Waves(), [np.zeros(3, np.int16)]), TypeError, r"sounds\[0\] is int16"),
        (lambda: audio.inputs(Waves(), [np.zeros(0, np.float32)]), ValueError, "no samples"),
        (lambda: audio.inputs(Waves(), [np.ones(9, np.float32)], seconds=0), ValueError, "seconds=0"),
        (lambda: audio.inputs(LogMel(), [np.ones(9, np.float32)], seconds=1), ValueError, "takes 30 s"),
        (lambda: audio.inputs(LogMel(), ["absent.wav"]), FileNotFoundError, "absent.wav"),
        (lambda: log_mel(np.ones(9, np.float32)), ValueError, "9 samples"),
        (lambda: audio.resample(np.ones(9, np.float32), 8000, 0), ValueError, "0 Hz"),
    ],
)
def test_what_is_no_sound_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()
