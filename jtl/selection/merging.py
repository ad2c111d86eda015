"""Merging networks that were fine-tuned from one start: task arithmetic, TIES-Merging and DARE."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jtl import rng
from jtl.checked import each, real, within
from jtl.model import Variables
from jtl.selection.soups import same_trees
from jtl.typing import Key, Tree

Weights = float | Sequence[float]


def task_arithmetic(base: Tree, tuned: Sequence[Tree], weights: Weights) -> Tree:
    """`θ⁰ + Σ_t λ_t τ_t`, with the task vectors `τ_t = θ_t − θ⁰` of networks that were fine-tuned from θ⁰.

    One network with a negative λ unlearns its task. n networks with λ = 1/n are their mean, the uniform soup. A
    network and λ = s is `jtl.selection.interpolate` with the share s.

    Sums are in at least float32, and the result has the dtypes of `base`. Statistics of `jtl.Variables`, such as those
    of BatchNorm, are those of `base`, because sums of differences mean nothing for them: compute them again from data,
    as `jtl.test_time.ada_bn` does. Integer and boolean arrays are kept and must be equal.

    Args:
      base: θ⁰: parameters, or `jtl.Variables`, of the pretrained network.
      tuned: those of one or more fine-tuned networks, with the same tree. If their heads differ, give parts alone, as
        in `jtl.part(variables, "backbone")`.
      weights: λ, one number for all networks or one for each; the authors choose it on validation data.

    Raises:
      ValueError: for no networks, weights that are not finite or not one for each, trees or shapes that differ, or
        integer arrays that differ, naming the first path.

    Example:
      >>> from jtl.selection import task_arithmetic
      >>> float(task_arithmetic({"w": 1.0}, [{"w": 3.0}, {"w": 0.0}], [0.5, 1.0])["w"])
      1.0

    Ilharco et al., Editing Models with Task Arithmetic, 2023, arXiv 2212.04089.
    """
    vectors, shares = _vectors(base, tuned), _shares(weights, len(tuned))
    return _moved(base, {path: _sum(taus, shares) for path, taus in vectors.items()})


def ties(
    base: Tree,
    tuned: Sequence[Tree],
    weights: Weights = 1.0,
    *,
    density: float = 0.2,
    trim: Literal["network", "array"] = "network",
) -> Tree:
    """TIES-Merging: trims task vectors, elects a sign for each number, and averages the vectors that have this sign.

    Of each `τ_t = θ_t − θ⁰` the share `density` of the numbers with the largest magnitudes is kept, and the others
    become 0. The sign of a number is `γ = sgn Σ_t τ_t`. The result is `θ⁰ + Σ_{t ∈ A} λ_t τ_t / |A|` with A the tasks
    for which `sgn τ_t = γ`; where the sum is 0, the result is θ⁰. Trees, dtypes and statistics are treated as in
    `task_arithmetic`.

    Args:
      base: θ⁰: parameters, or `jtl.Variables`, of the pretrained network.
      tuned: those of the fine-tuned networks, with the same tree.
      weights: λ, one number for all networks or one for each. In the paper it is one number, 1 without validation data.
      density: the share to keep, in (0, 1]: of n numbers `int(density · n)`, and others of the same magnitude as the
        last of them.
      trim: whether the share is that of all numbers of a network, as in the paper, or of each array.

    Raises:
      ValueError: as `task_arithmetic`; for a density outside (0, 1] or another `trim`.

    Example:
      >>> import numpy as np
      >>> from jtl.selection import ties
      >>> base, tuned = {"w": np.zeros(3)}, [{"w": np.array([4.0, 3.0, 0.1])}, {"w": np.array([2.0, -1.0, 0.2])}]
      >>> ties(base, tuned, density=0.7)["w"].tolist()
      [3.0, 3.0, 0.0]

    Yadav et al., TIES-Merging: Resolving Interference When Merging Models, 2023, arXiv 2306.01708.
    """
    within("(0, 1]", density=density)
    if trim not in ("network", "array"):
        raise ValueError(f"trim={trim!r}: give 'network' or 'array'")
    vectors, shares = _vectors(base, tuned), _shares(weights, len(tuned))
    for t in range(len(tuned)):
        one = {path: taus[t] for path, taus in vectors.items()}
        for group in [one] if trim == "network" else [{path: tau} for path, tau in one.items()]:
            least = _least(list(group.values()), density)
            for path, tau in group.items():
                vectors[path][t] = jnp.where(jnp.abs(tau) >= least, tau, 0)
    return _moved(base, {path: _disjoint_mean(taus, shares) for path, taus in vectors.items()})


def dare(
    base: Tree, tuned: Sequence[Tree], weights: Weights, *, drop: float, key: Key, elect_signs: bool = False
) -> Tree:
    """DARE: drops numbers of the task vectors at random and rescales the others, `m τ_t / (1 − p)`, before the merge.

    m ~ Bernoulli(1 − p), drawn for each number of each network, so the expectation is `task_arithmetic`. With one
    network and λ = 1 the result differs from θ⁰ in the share 1 − p of its numbers. Trees, dtypes and statistics are
    treated as in `task_arithmetic`.

    Args:
      base: θ⁰: parameters, or `jtl.Variables`, of the pretrained network.
      tuned: those of one or more fine-tuned networks, with the same tree.
      weights: λ, one number for all networks or one for each.
      drop: p in [0, 1); the paper finds that .9 often does no harm where the numbers of τ are small.
      key: key of the draws.
      elect_signs: merge as `ties` does, without its trimming, instead of by a sum.

    Raises:
      ValueError: as `task_arithmetic`; for a p outside [0, 1).

    Example:
      >>> import jax
      >>> from jtl.selection import dare
      >>> float(dare({"w": 1.0}, [{"w": 3.0}], 1.0, drop=0.0, key=jax.random.key(0))["w"])
      3.0

    Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch, 2024, arXiv
    2311.03099.
    """
    within("[0, 1)", drop=drop)
    vectors, shares = _vectors(base, tuned), _shares(weights, len(tuned))
    merged = {}
    for path, taus in vectors.items():
        kept = [jax.random.bernoulli(rng.stream(key, path, t), 1 - drop, tau.shape) for t, tau in enumerate(taus)]
        taus = [jnp.where(m, tau / (1 - drop), 0) for m, tau in zip(kept, taus, strict=True)]
        merged[path] = _disjoint_mean(taus, shares) if elect_signs else _sum(taus, shares)
    return _moved(base, merged)


def _least(values: list[Any], density: float) -> Any:
    """The magnitude of the last number that is kept; infinite if none is."""
    count = int(density * sum(value.size for value in values))
    if not count:
        return jnp.inf
    every = jnp.concatenate([jnp.abs(value).ravel() for value in values])
    return jnp.sort(every)[every.size - count]


def _sum(taus: Sequence[Any], shares: Sequence[float]) -> Any:
    return sum(s * tau for s, tau in zip(shares, taus, strict=True))


def _disjoint_mean(taus: Sequence[Any], shares: Sequence[float]) -> Any:
    elected = jnp.sign(sum(taus))
    agree = [(jnp.sign(tau) == elected) & (tau != 0) for tau in taus]  # a 0 agrees with none
    total = _sum([jnp.where(a, tau, 0) for a, tau in zip(agree, taus, strict=True)], shares)
    return total / jnp.maximum(sum(a.astype(total.dtype) for a in agree), 1)


def _vectors(base: Tree, tuned: Sequence[Tree]) -> dict[str, list[Any]]:
    """The differences from the base of each floating parameter, in at least float32, by path."""
    if not tuned:
        raise ValueError("tuned is empty: give the parameters of at least one network")
    start, others = _params(base), [_params(one) for one in tuned]
    for i, other in enumerate(others, 1):
        same_trees(start, other, i)
    found = {}
    for (path, w), *moved in zip(*map(jax.tree_util.tree_leaves_with_path, (start, *others)), strict=True):
        name, dtype = jax.tree_util.keystr(path), jnp.result_type(w)
        if jnp.issubdtype(dtype, jnp.floating):
            wide = jnp.promote_types(dtype, jnp.float32)
            found[name] = [jnp.asarray(leaf, wide) - jnp.asarray(w, wide) for _, leaf in moved]
            continue
        for i, (_, leaf) in enumerate(moved, 1):
            if not np.array_equal(w, leaf):
                raise ValueError(f"tree {i} has {name} of {dtype}, with other values than tree 0: only floats merge")
    return found


def _params(tree: Tree) -> Tree:
    return tree.params if isinstance(tree, Variables) else tree


def _moved(base: Tree, vectors: dict[str, Any]) -> Tree:
    """The base plus a vector, in the dtypes of the base."""

    def leaf(path: Any, start: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if name not in vectors:
            return start
        return (jnp.asarray(start, vectors[name].dtype) + vectors[name]).astype(jnp.result_type(start))

    merged = jax.tree_util.tree_map_with_path(leaf, _params(base))
    return base._replace(params=merged) if isinstance(base, Variables) else merged


def _shares(weights: Weights, count: int) -> list[float]:
    shares: list[Any] = [weights] * count if real(weights) else list(weights)  # pyright: ignore[reportArgumentType]
    if len(shares) != count:
        raise ValueError(f"{len(shares)} weights for {count} networks: give one number, or one for each")
    within("(-inf, inf)", **each("weights", shares))
    return [float(share) for share in shares]
