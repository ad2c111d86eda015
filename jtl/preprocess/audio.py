"""Reads, resamples and pads sounds on the host, and computes the inputs of a pretrained network."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from jtl.extras import NotInstalled
from jtl.paths import local
from jtl.preprocess.audio_spec import RATES, LogMel, Waves
from jtl.preprocess.spectrogram import log_mel

Wave = Float32[np.ndarray, "_samples"]
BLOCK = 1 << 14  # frames read at a time, because a header may claim any number
CHUNKS = 1000  # of a wav file that are searched for its samples
UNKNOWN = 0x7FFF0000  # bytes of samples; a header with this size or more does not know it


def inputs(preprocessing: Waves | LogMel, sounds: Sequence[Any], *, seconds: float | None = None) -> Any:
    """Returns the input of a network of sounds.

    Args:
      preprocessing: `jtl.load(...).preprocessing`.
      sounds: paths of wav or flac files, their bytes, or waves [samples] at the network's sampling rate.
      seconds: the length of every row, so that one shape is compiled once; longer sounds are cut. None for the length
        of the longest sound. A network of log-mel spectrograms has a fixed length, so give None.

    Returns:
      For `Waves` {"wave": float32 [sounds, samples], "mask": bool, true where there is sound (everywhere, for a
      network that was trained without masks)}; for `LogMel` float32 [sounds, frames, mels].

    Raises:
      FileNotFoundError: if a file does not exist.
      ValueError: if a file does not decode, a sound is empty or not finite, or the length is invalid.
      TypeError: for a sound that is neither a path nor bytes nor a wave.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess import audio
      >>> from jtl.preprocess.audio_spec import Waves
      >>> rows = audio.inputs(Waves(16000, masked=True), [np.ones(3, np.float32), np.ones(5, np.float32)])
      >>> rows["wave"].shape, rows["mask"].sum(1).tolist()
      ((2, 5), [3, 5])
    """
    if isinstance(sounds, (str, bytes, Path)) or len(sounds) == 0:
        raise ValueError(f"sounds={str(sounds)[:50]!r}: give a list of at least one")
    rate = preprocessing.rate
    waves = [_wave(sound, rate, f"sounds[{i}]") for i, sound in enumerate(sounds)]
    if isinstance(preprocessing, LogMel):
        if seconds is not None:
            raise ValueError(f"seconds={seconds}: this network takes {preprocessing.seconds} s, no more and no less")
        _, mels, window, hop, length = preprocessing
        rows = pad(waves, length * rate)["wave"]
        return np.stack([log_mel(row, rate=rate, mels=mels, window=window, hop=hop) for row in rows])
    samples = max(map(len, waves)) if seconds is None else round(seconds * rate)
    if samples < 1:
        raise ValueError(f"seconds={seconds}: at {rate} Hz that is no sample")
    waves = [wave[:samples] for wave in waves]
    found = pad([normalise(wave) for wave in waves] if preprocessing.normalise else waves, samples)
    return found if preprocessing.masked else {**found, "mask": np.ones_like(found["mask"])}


def read(file: str | Path | bytes, rate: int) -> Wave:
    """Reads the samples of a wav or flac file, averaged over its channels, in [-1, 1], float32 [samples].

    Args:
      file: a path, or the file's bytes.
      rate: samples per second of the result; a file with another rate is resampled.

    Raises:
      FileNotFoundError: if there is no such file, naming the path.
      ValueError: if the file does not decode, is truncated, or holds no sound, naming the path.
      NotInstalled: a ModuleNotFoundError, if soundfile is missing, naming the extra that installs it.

    Example:
      >>> import tempfile, numpy as np, soundfile
      >>> from jtl.preprocess import audio
      >>> file = tempfile.mkdtemp() + "/tone.wav"
      >>> soundfile.write(file, np.zeros(800), 8000)
      >>> audio.read(file, 16000).shape
      (1600,)
    """
    wave, own = _decoded(file)
    return resample(wave, own, rate)


def length(file: str | Path | bytes, rate: int) -> int:
    """Returns the number of samples that `read` would return, without resampling; the file is decoded and checked.

    Raises:
      FileNotFoundError: as in `read`.
      ValueError: as in `read`.
      NotInstalled: as in `read`.

    Example:
      >>> import tempfile, numpy as np, soundfile
      >>> from jtl.preprocess import audio
      >>> file = tempfile.mkdtemp() + "/tone.wav"
      >>> soundfile.write(file, np.zeros(800), 8000)
      >>> audio.length(file, 16000)
      1600
    """
    wave, own = _decoded(file)
    up, down = _factors(own, rate)
    return -(-len(wave) * up // down)  # rounded up, as by the filter


def _decoded(file: str | Path | bytes) -> tuple[Wave, int]:
    """Returns the samples of a file at its own sampling rate, and this rate."""
    soundfile = _soundfile()
    name = "the sound" if isinstance(file, bytes) else f"sound {str(file)!r}"
    file = file if isinstance(file, bytes) else local(file, "file")
    if not isinstance(file, bytes) and not file.is_file():
        raise FileNotFoundError(f"{name} is no file")
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as raw:
        lacks = _lacking(raw)
    if lacks:
        raise ValueError(f"{name} is cut off: {lacks} bytes of the samples that its header tells of are missing")
    try:
        with soundfile.SoundFile(io.BytesIO(file) if isinstance(file, bytes) else str(file)) as opened:
            own, blocks = opened.samplerate, []
            while len(block := opened.read(BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block.mean(1))
    except soundfile.SoundFileError as error:
        raise ValueError(f"{name} does not decode: {error}") from error
    wave = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    _check(wave, name)
    return wave, own


def _soundfile() -> Any:
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise NotInstalled("sounds need soundfile: pip install 'jtl[audio]'", name="soundfile") from error
    return soundfile


def _lacking(raw: io.BufferedIOBase) -> int:
    """Counts the bytes missing at the end of a wav file's samples; libsndfile would read a shorter sound."""
    whole = raw.seek(0, io.SEEK_END)
    raw.seek(0)
    head = raw.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0
    for _ in range(CHUNKS):
        if len(chunk := raw.read(8)) < 8:
            break
        size, here = int.from_bytes(chunk[4:], "little"), raw.tell()
        if chunk[:4] == b"data":
            # A file that was written into a pipe does not know its size, and claims the largest.
            return max(size - (whole - here), 0) if size < UNKNOWN else 0
        raw.seek(here + size + size % 2)
    return 0


def duration(file: str | Path) -> float:
    """Returns the duration of a wav or flac file in seconds, by its header alone.

    Raises:
      ValueError: if the file does not decode, naming it.
      NotInstalled: as in `read`.

    Example:
      >>> import tempfile, numpy as np, soundfile
      >>> from jtl.preprocess import audio
      >>> file = tempfile.mkdtemp() + "/tone.wav"
      >>> soundfile.write(file, np.zeros(800), 8000)
      >>> audio.duration(file)
      0.1
    """
    soundfile = _soundfile()
    try:
        return soundfile.info(str(local(file, "file"))).duration
    except soundfile.SoundFileError as error:
        raise ValueError(f"sound {str(file)!r} does not decode: {error}") from error


def resample(wave: Wave, before: int, after: int) -> Wave:
    """Resamples a sound from `before` to `after` samples per second, by a polyphase filter.

    Raises:
      ValueError: for a rate out of range.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess import audio
      >>> audio.resample(np.zeros(800, np.float32), 8000, 16000).shape
      (1600,)
    """
    from scipy.signal import resample_poly

    up, down = _factors(before, after)
    return wave if up == down else np.asarray(resample_poly(wave, up, down), np.float32)


def _factors(before: int, after: int) -> tuple[int, int]:
    """Returns the factor and the divisor that turn one sampling rate into another, in lowest terms."""
    for rate in (before, after):
        if not RATES[0] <= rate <= RATES[1]:
            raise ValueError(f"a sampling rate of {rate} Hz: give one from {RATES[0]} to {RATES[1]}")
    common = math.gcd(before, after)
    return after // common, before // common


def pad(waves: Sequence[Wave], samples: int) -> dict[str, np.ndarray]:
    """Returns waves as rows of one length: longer ones are cut, shorter ones padded with zeros.

    Args:
      waves: any number of waves.
      samples: the length of a row.

    Returns:
      {"wave": float32 [waves, samples], "mask": bool [waves, samples], true where there is sound}.

    Raises:
      ValueError: for a length below 1.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess import audio
      >>> audio.pad([np.ones(2, np.float32), np.ones(5, np.float32)], 4)["mask"].tolist()
      [[True, True, False, False], [True, True, True, True]]
    """
    if samples < 1:
        raise ValueError(f"samples={samples}: give at least 1")
    rows = np.zeros((len(waves), samples), np.float32)
    for row, wave in zip(rows, waves, strict=True):
        row[: len(wave)] = wave[:samples]
    lengths = np.array([len(wave) for wave in waves]).reshape(-1, 1)
    return {"wave": rows, "mask": np.arange(samples)[None] < lengths}


def normalise(wave: Wave) -> Wave:
    """Computes `(x − μ) / √(σ² + 10⁻⁷)` of one sound, as in wav2vec2; to be done before padding.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess import audio
      >>> audio.normalise(np.array([1.0, 3.0], np.float32)).round(3).tolist()
      [-1.0, 1.0]
    """
    wide = wave.astype(np.float64)
    return ((wide - wide.mean()) / np.sqrt(wide.var() + 1e-7)).astype(np.float32)


def _wave(sound: Any, rate: int, name: str) -> Wave:
    if isinstance(sound, (str, Path, bytes)):
        return read(sound, rate)
    wave = np.asarray(sound)
    if wave.ndim != 1 or wave.dtype.kind != "f":
        raise TypeError(f"{name} is {wave.dtype} of shape {wave.shape}: give a path, bytes, or floats [samples]")
    _check(wave, name)
    return wave.astype(np.float32)


def _check(wave: np.ndarray, name: str) -> None:
    if not len(wave):
        raise ValueError(f"{name} holds no samples")
    if not np.isfinite(wave).all():
        raise ValueError(f"{name} holds NaN or infinity, first in sample {int(np.argmin(np.isfinite(wave)))}")
