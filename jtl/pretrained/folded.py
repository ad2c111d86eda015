"""Detects weights whose batch normalisation was folded into the convolutions before it."""

import numpy as np

from jtl.model import Variables
from jtl.params import flatten


def folded(variables: Variables) -> bool:
    """Returns whether the running statistics are meaningless, because batch normalisation was folded into convolutions.

    Such weights have mean 0 and one constant variance everywhere. Their statistics must stay frozen, because in
    training mode the batch statistics would undo the pretraining. Weights that were never trained have such statistics
    too, but also one constant scale and shift in each normalisation, so they do not count.
    """
    stats = flatten(variables.stats)
    means = [np.asarray(leaf) for path, leaf in stats.items() if path.endswith("mean")]
    spreads = [np.asarray(leaf) for path, leaf in stats.items() if path.endswith("var")]
    own = [leaf for path, leaf in flatten(variables.params).items() if f"{path.rpartition('/')[0]}/mean" in stats]
    if own and all(np.ptp(np.asarray(leaf)) == 0 for leaf in own):
        return False
    return bool(means) and all((m == 0).all() for m in means) and all((np.ptp(v) < 1e-6) for v in spreads)
