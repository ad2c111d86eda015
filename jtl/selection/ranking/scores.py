"""All transferability scores of one model at once."""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Num

from jtl.selection.checked import rows
from jtl.selection.ranking.h_score import h_score
from jtl.selection.ranking.leep import leep, nce
from jtl.selection.ranking.logme import logme
from jtl.selection.ranking.transrate import transrate


class Scores(NamedTuple):
    """Transferability scores of one model on one data set; higher is better in all of them.

    Args:
      logme: `logme` of the features.
      h_score: `h_score` of the features, with shrinkage.
      transrate: `transrate` of the features, centred and scaled to a total variance of 1 to be comparable between
        models.
      nce: `nce` of the source classes that the model predicts; None for a model without a classifier.
      leep: `leep` of the model's probabilities; None for a model without a classifier.
    """

    logme: float
    h_score: float
    transrate: float
    nce: float | None = None
    leep: float | None = None


def scores(
    features: Float[ArrayLike, "examples width"],
    y: Num[ArrayLike, "_"],
    probabilities: Float[ArrayLike, "examples source"] | None = None,
) -> Scores:
    """Every score of a model's features, and of its own predictions if it has a classifier.

    Args:
      features: features of the pretrained backbone, not centred.
      y: integer labels of the target.
      probabilities: probabilities of the source classes; None for a model without a classifier.

    Raises:
      ValueError: as in each score.

    Example:
      >>> import numpy as np
      >>> from jtl.selection.ranking import scores
      >>> y = np.arange(30) % 3
      >>> noise = np.random.default_rng(0).normal(size=(30, 4))
      >>> good, bad = scores(noise + 3 * np.eye(4)[y], y), scores(noise, y)
      >>> [a > b for a, b in zip(good[:3], bad[:3])], good.leep
      ([True, True, True], None)
    """
    f = rows("features", features)
    spread = np.sqrt(f.var(0).sum())
    if not spread > 0:
        raise ValueError("features do not vary: all rows are equal")
    found = Scores(logme(f, y), h_score(f, y), transrate((f - f.mean(0)[None]) / spread, y))
    if probabilities is None:
        return found
    theta = np.asarray(probabilities)
    return found._replace(nce=nce(theta.argmax(1), y), leep=leep(theta, y))
