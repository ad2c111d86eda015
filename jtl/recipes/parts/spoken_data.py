"""Spoken digits as log-mel pictures: ten digits of six speakers, fifty clips each, 8 kHz.

Jakobovski et al., Free Spoken Digit Dataset, 2018.
"""

import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jtl.preprocess import audio
from jtl.preprocess.audio_spec import LogMel

FILE = "speech/spoken_digits.zip"
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
HEARD = LogMel(rate=8000, mels=40, window=200, hop=80, seconds=1)
"""Windows of 25 ms every 10 ms, over one second of each clip; most clips are half as long."""
SHAPE = (HEARD.seconds * HEARD.rate // HEARD.hop, HEARD.mels, 1)
TEST = 5
"""Clips 0 to 4 of each speaker and digit are the test set, as defined by the data set's authors."""


class Clips(NamedTuple):
    """All clips: pictures [clips, 100, 40, 1], digits, speakers by number, and whether they are in the test set."""

    x: np.ndarray
    y: np.ndarray
    speaker: np.ndarray
    test: np.ndarray


def load(path: Path) -> Clips:
    """Reads the zip of `DIGIT_SPEAKER_INDEX.wav`.

    Raises:
      ValueError: naming a clip that cannot be read, or an archive without clips.
    """
    sounds, rows = [], []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            found = re.fullmatch(rf"(?:.*/)?(\d)_({'|'.join(SPEAKERS)})_(\d+)\.wav", name)
            if found:
                rows.append((int(found[1]), SPEAKERS.index(found[2]), int(found[3]) < TEST))
                sounds.append(archive.read(name))
    if not sounds:
        raise ValueError(f"{str(path)!r} holds no clip DIGIT_SPEAKER_INDEX.wav of {', '.join(SPEAKERS)}")
    digits, speakers, test = (np.array(column) for column in zip(*rows, strict=True))
    return Clips(audio.inputs(HEARD, sounds)[..., None], digits.astype(np.int32), speakers, test)


def read(path: Path) -> np.ndarray:
    """Reads a sound file as the network takes it, [100, 40, 1]."""
    return audio.inputs(HEARD, [path])[0][..., None]
