"""The class split of Omniglot by Vinyals et al., by the names of characters."""

from collections.abc import Sequence

import numpy as np

from jtl.data.cifar_splits import ClassSplit

VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
TEST = (
    "Kannada",
    "Keble",
    "Malayalam",
    "Manipuri",
    "Mongolian",
    "Old_Church_Slavonic_(Cyrillic)",
    "Oriya",
    "Sylheti",
    "Syriac_(Serto)",
    "Tengwar",
    "Tibetan",
    "ULOG",
)
GURMUKHI = tuple(f"Gurmukhi/character{i}" for i in (42, 43, 44, 45))
"""The only alphabet that is divided; its other 41 characters train."""


def omniglot_vinyals(names: Sequence[str] | np.ndarray) -> ClassSplit:
    """Omniglot's split by Vinyals et al.: 1,028 characters to train, 172 to choose by, 423 to test, by alphabets.

    It is the split of Matching and Prototypical networks; that of MAML is `split_classes(1623, (1100, 100, 423))`,
    characters at random, so that a test character's alphabet is known.

    Args:
      names: of the classes in the order of the data, each ending in `Alphabet/characterNN`, as the folders of Omniglot.

    Returns:
      Indices of classes.

    Raises:
      ValueError: where the names are not those of all 1,623 characters, once each.

    Example:
      >>> import jtl
      >>> jtl.data.omniglot_vinyals(["Latin/character01"])
      Traceback (most recent call last):
      ...
      ValueError: 1 names of 1 characters: give those of all 1623 of Omniglot, as 'Latin/character01'

    Vinyals et al., Matching Networks for One Shot Learning, 2016, arXiv 1606.04080.
    """
    characters = ["/".join(str(name).strip("/").split("/")[-2:]) for name in names]
    if len(characters) != 1623 or len(set(characters)) != 1623:
        raise ValueError(
            f"{len(characters)} names of {len(set(characters))} characters: give those of all 1623 of Omniglot, as"
            " 'Latin/character01'"
        )
    alphabets = np.array([name.split("/")[0] for name in characters])
    if lacking := {*VALIDATION, *TEST, "Gurmukhi"} - set(alphabets):
        raise ValueError(f"no character of the alphabets {sorted(lacking)}: names end in Alphabet/characterNN")
    test = np.isin(alphabets, TEST) | np.isin(characters, GURMUKHI)
    val = np.isin(alphabets, VALIDATION)
    return ClassSplit(*(np.flatnonzero(part) for part in (~test & ~val, val, test)))
