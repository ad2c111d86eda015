"""Averages of parameters: WiSE-FT for two networks, and the greedy soup for many."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jtl.typing import Tree


class Soup(NamedTuple):
    """The result of `greedy_soup`.

    Args:
      average: the average of the candidates that were taken.
      taken: their indices in the given sequence, in the order in which they were taken.
      score: the score of the average.
    """

    average: Any
    taken: tuple[int, ...]
    score: float


def interpolate(a: Tree, b: Tree, share: float) -> Tree:
    """WiSE-FT: `(1 − s) a + s b`, leaf by leaf, in the dtype of a (float32 for integers), computed in at least float32.

    Args:
      a: parameters, or `jtl.Variables`, of the pretrained network.
      b: those of the fine-tuned network, with the same tree, as after fine-tuning a zero-shot classifier.
      share: s in [0, 1]; 0 gives a, 1 gives b.

    Raises:
      ValueError: for a share outside [0, 1], or trees or shapes that differ, naming the first path.

    Example:
      >>> import jtl
      >>> from jtl.selection.soups import interpolate
      >>> float(interpolate({"w": 0.0}, {"w": 4.0}, 0.25)["w"])
      1.0

    Wortsman et al., Robust fine-tuning of zero-shot models, 2021, arXiv 2109.01903.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: the share of the second lies in [0, 1]")
    return _average([a, b], [1 - share, share])


def greedy_soup(candidates: Sequence[Tree], score: Callable[[Tree], float]) -> Soup:
    """Averages parameters greedily: from best to worst, each candidate is kept if it does not make the average worse.

    On the validation data the soup is never worse than the best candidate. Running statistics of BatchNorm cannot be
    averaged: average only the parameters, and let `score` recompute the statistics.

    Args:
      candidates: the parameters of one or more networks that were fine-tuned from the same start.
      score: a function from parameters to a validation score; higher is better.

    Raises:
      ValueError: for no candidates, trees that differ, or a score that is NaN.

    Example:
      >>> from jtl.selection.soups import greedy_soup
      >>> soup = greedy_soup([{"w": 0.0}, {"w": 4.0}, {"w": 9.0}], lambda p: -abs(float(p["w"]) - 1.5))
      >>> soup.taken, float(soup.average["w"])
      ((0, 1), 2.0)

    Wortsman et al., Model soups, 2022, arXiv 2203.05482.
    """
    if not candidates:
        raise ValueError("candidates is empty: give the parameters of at least one network")
    alone = [_number(score(one), i) for i, one in enumerate(candidates)]
    order = sorted(range(len(candidates)), key=lambda i: -alone[i])
    taken, best, average = (order[0],), alone[order[0]], candidates[order[0]]
    for i in order[1:]:
        members = (*taken, i)
        tried = _average([candidates[j] for j in members], [1 / len(members)] * len(members))
        found = _number(score(tried), i)
        if found >= best:
            taken, best, average = members, found, tried
    return Soup(average, taken, best)


def _average(trees: Sequence[Tree], shares: Sequence[float]) -> Tree:
    first = trees[0]
    for i, other in enumerate(trees[1:], 1):
        same_trees(first, other, i)

    def leaf(*values: Any) -> Any:
        dtype = jnp.result_type(values[0])
        if not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.float32
        wide = jnp.promote_types(dtype, jnp.float32)
        return jnp.asarray(sum(s * jnp.asarray(v, wide) for s, v in zip(shares, values, strict=True))).astype(dtype)

    return jax.tree.map(leaf, *trees)


def same_trees(a: Tree, b: Tree, i: int) -> None:
    """Refuses trees that cannot be averaged or merged.

    Args:
      a: tree 0.
      b: tree i.
      i: its number, for the message.

    Raises:
      ValueError: for a path that one of them lacks, or whose shapes differ.

    Example:
      >>> from jtl.selection.soups import same_trees
      >>> same_trees({"w": 0.0}, {"w": 1.0}, 1)
    """
    ours, theirs = (
        {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (a, b)
    )
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            raise ValueError(
                f"tree {i} has {path} of shape {theirs.get(path)}, tree 0 of {ours.get(path)}: only equal trees combine"
            )


def _number(score: Any, i: int) -> float:
    value = float(score)
    if value != value:
        raise ValueError(f"the score of candidate {i} is NaN")
    return value
