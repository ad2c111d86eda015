"""BitFit: only the biases of the network are trained."""

from jtl.params import select
from jtl.typing import Mask


def bitfit(*also: str) -> Mask:
    """BitFit: a mask of trainable parameters that selects every bias, and every match of the patterns.

    No parameters are added. Use it in place of `jtl.select(...)`.

    Args:
      also: regexes over whole paths, such as "head/.*" for a new head, which needs more than its bias.

    Returns:
      A mask for `trainable=`.

    Raises:
      ValueError: when applied, for a pattern that matches nothing and for a network without a bias.

    Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models, 2021,
    arXiv 2106.10199.

    Example:
      >>> import jtl
      >>> jtl.peft.bitfit("head/.*")({"backbone": {"bias": 0, "kernel": 0}, "head": {"bias": 0, "kernel": 0}})
      {'backbone': {'bias': True, 'kernel': False}, 'head': {'bias': True, 'kernel': True}}
    """
    return select("(.*/)?bias", *also)
