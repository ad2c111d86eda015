"""What the commands change at random: windows and flips of images, the speed of sounds, nothing of texts."""

import numpy as np
import pytest

from jtl.command.augmentation import augmentation
from jtl.command.model import Inputs
from jtl.data import spectrograms, waves
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import Preprocessing


def test_images_are_flipped_and_cut_to_the_network_s_size(key):
    how = Preprocessing(size=256, crop=224, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    moved = augmentation(Inputs(preprocessing=how))
    assert moved is not None
    assert moved(key, np.ones((2, 256, 256, 3), np.float32)).shape == (2, 224, 224, 3)


@pytest.mark.parametrize(
    ("sound", "shape", "expected"),
    [(Waves(8000), (2, 400), waves.speed()), (LogMel(8000, 20), (2, 50, 20), spectrograms.speed(8000))],
    ids=["waves", "spectrograms"],
)
def test_sounds_are_played_at_other_speeds(key, sound, shape, expected):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    moved = augmentation(Inputs(sound=sound))
    assert moved is not None
    found = moved(key, x)
    assert np.abs(found - x).max() > 0.1
    np.testing.assert_array_equal(found, expected(key, x))


def test_texts_stay_as_they_are():
    assert augmentation(Inputs()) is None
