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
"""Test characters of the only alphabet that is divided; its other 41 characters are for training."""


def omniglot_vinyals(names: Sequence[str] | np.ndarray) -> ClassSplit:
    """Omniglot's split by Vinyals et al., by alphabets: 1,028 characters to train, 172 to validate, 423 to test.

    It is the split of Matching and Prototypical networks. MAML's is `split_classes(1623, (1100, 100, 423))`, which
    draws characters at random, so that training may have seen a test character's alphabet.

    Args:
      names: the names of the classes in the order of the data, each ending in `Alphabet/characterNN`, as Omniglot's
        folders.

    Returns:
      Indices of classes.

    Raises:
      ValueError: if the names are not those of all 1,623 characters, once each.

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
