"""Terms that are added to a loss: objectives on views. Their order matters for their names and random draws."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jtl import rng
from jtl.methods.views import Views
from jtl.metrics.accumulate import Mean, as_terms
from jtl.model import Variables
from jtl.objective import Objective, as_objective
from jtl.typing import Aux, Key, Params, Stats


class Added(NamedTuple):
    """The terms of an objective.

    Args:
      terms: objectives on views instead of a batch.
      kind: what a term is called in error messages; also the name of its random stream.
    """

    terms: tuple[Objective, ...]
    kind: str

    def to(
        self, loss: dict[str, Mean], aux: Aux, params: Params, views: Views, key: Key | None, step: Any
    ) -> tuple[dict[str, Mean], Aux]:
        """The loss and its `Aux`, joined with those of the terms; each term sees the statistics of the one before.

        Raises:
          ValueError: if two of them use the same name.
        """
        for i, term in enumerate(self.terms):
            own = None if key is None else rng.stream(key, self.kind, i)
            value, more = term(params, aux.stats, views, own, step)
            parts = as_terms(value)
            clash = sorted((loss.keys() & parts.keys()) | (aux.metrics.keys() & more.metrics.keys()))
            if clash:
                raise ValueError(f"{self.kind} {i} uses the names {clash}, which are taken: give it another name")
            loss, aux = {**loss, **parts}, Aux(more.stats, {**aux.metrics, **more.metrics}, aux.outputs)
        return loss, aux

    def init(self, key: Key, views: Views, given: Variables) -> Variables:
        """The given variables, and whatever else each term needs."""
        for term in self.terms:
            given = term.init(key, views, given)
        return given

    def commit(self, stats: Stats, params: Params) -> Stats:
        """The statistics after the commit of each term."""
        for term in self.terms:
            stats = term.commit(stats, params)
        return stats


def added(terms: Sequence[Objective | Callable], kind: str) -> Added:
    """Makes terms to add from objectives or bare functions.

    Raises:
      TypeError: if one of them is not callable.
    """
    return Added(tuple(map(as_objective, terms)), kind)
