"""Transferability scores: how well a model's features suit a data set, computed without training."""

from jtl.selection.ranking.h_score import h_score as h_score
from jtl.selection.ranking.leep import leep as leep
from jtl.selection.ranking.leep import nce as nce
from jtl.selection.ranking.logme import logme as logme
from jtl.selection.ranking.scores import Scores as Scores
from jtl.selection.ranking.scores import scores as scores
from jtl.selection.ranking.transrate import transrate as transrate
