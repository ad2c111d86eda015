"""What the commands change at random: windows and flips of images, nothing of sounds and texts."""

import numpy as np
import pytest

from jtl.command.augmentation import augmentation
from jtl.command.model import Inputs
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import Preprocessing


def test_images_are_flipped_and_cut_to_the_network_s_size(key):
    how = Preprocessing(size=256, crop=224, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    moved = augmentation(Inputs(preprocessing=how))
    assert moved is not None
    x = np.broadcast_to(np.arange(256.0, dtype=np.float32)[None, None, :, None], (9, 256, 256, 3))
    rows = np.asarray(moved(key, x))[:, 0, :, 0]
    assert rows.shape == (9, 224)
    assert {tuple(np.unique(np.diff(row))) for row in rows} == {(1.0,), (-1.0,)}
    assert len({min(row) for row in rows}) > 3


@pytest.mark.parametrize("sound", [Waves(8000), LogMel(8000, 20), None])
def test_sounds_and_texts_stay_as_they_are(sound):
    assert augmentation(Inputs(sound=sound)) is None
