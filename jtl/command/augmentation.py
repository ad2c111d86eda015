"""What the commands change at random in training examples."""

from jtl.command.model import Inputs, side_of
from jtl.data import augment
from jtl.data.augment import Augment


def augmentation(inputs: Inputs) -> Augment | None:
    """Returns the random changes of training inputs: flips and windows of images, else None.

    Sounds stay as they are, because their class may be a pitch.
    """
    if inputs.preprocessing is None:
        return None
    side = side_of(inputs.preprocessing)
    return augment.compose(augment.flip(), *(() if side is None else (augment.crop(side),)))
