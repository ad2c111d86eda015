"""Terms that are added to a loss: objectives on views, in an order that their names and draws depend on."""

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
      terms: on views in place of a batch.
      kind: what one is called, in the error and as the name of its stream of draws.
    """

    terms: tuple[Objective, ...]
    kind: str

    def to(
        self, loss: dict[str, Mean], aux: Aux, params: Params, views: Views, key: Key | None, step: Any
    ) -> tuple[dict[str, Mean], Aux]:
        """A loss and what comes with it, and those of the terms; each sees the statistics of the one before.

        Raises:
          ValueError: where two use one name.
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
        """The given variables, and what each term needs besides."""
        for term in self.terms:
            given = term.init(key, views, given)
        return given

    def commit(self, stats: Stats, params: Params) -> Stats:
        """The statistics after the commit of each term."""
        for term in self.terms:
            stats = term.commit(stats, params)
        return stats


def added(terms: Sequence[Objective | Callable], kind: str) -> Added:
    """Objectives or bare functions as terms to add.

    Raises:
      TypeError: for what is no function.
    """
    return Added(tuple(map(as_objective, terms)), kind)
