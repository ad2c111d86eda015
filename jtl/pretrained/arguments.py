"""Checks the arguments of `jtl.load`."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp


def check_arguments(classes: Any, image: Any, stages: Any, dtype: Any) -> None:
    """Refuses invalid classes (a number or names), image sizes, numbers of stages or floating types.

    Raises:
      TypeError, ValueError: naming the argument, its value and valid ones.
    """
    if isinstance(classes, str):
        raise TypeError(f"classes={classes!r} is a string; give a number or a tuple of names")
    if isinstance(classes, bool) or not (classes is None or isinstance(classes, (int, Sequence))):
        raise TypeError(f"classes={classes!r}: give a number or a tuple of names")
    count = classes if isinstance(classes, int) or classes is None else len(classes)
    if count is not None and count < 1:
        raise ValueError(
            f"classes={classes!r}: give at least one; None keeps the file's head, and the features"
            " alone are those of .backbone with jtl.part(variables, 'backbone')"
        )
    if not isinstance(classes, int) and classes is not None:
        names = [str(name) for name in classes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"classes={classes!r}: {', '.join(twice)} more than once; give each class a name of its own"
            )
    if image is not None and (type(image) is not int or image < 1):
        raise ValueError(f"image={image!r}: give the side of the images in pixels, a whole number from 1")
    if stages is not None and (isinstance(stages, bool) or not isinstance(stages, int)):
        raise TypeError(f"stages={stages!r}: give a whole number, the first stages that are read")
    try:
        floats = jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        floats = False
    if not floats:
        raise ValueError(f"dtype={dtype!r}: give a floating type, as jnp.float32 or jnp.bfloat16")
