"""What the commands change at random in training examples."""

from jtl.command.model import Inputs, side_of
from jtl.data import augment, spectrograms, waves
from jtl.data.augment import Augment
from jtl.preprocess.audio_spec import LogMel


def augmentation(inputs: Inputs) -> Augment | None:
    """Returns the random changes of training inputs: flips and windows of images, other speeds of sounds, else None."""
    if inputs.preprocessing is not None:
        side = side_of(inputs.preprocessing)
        return augment.compose(augment.flip(), *(() if side is None else (augment.crop(side),)))
    if inputs.sound is None:
        return None
    return spectrograms.speed(inputs.sound.rate) if isinstance(inputs.sound, LogMel) else waves.speed()
