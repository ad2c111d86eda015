"""Optimal transport plans between equally weighted rows: exact, entropic, and with a group lasso of classes."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

FAR = 30.0
"""The size of log scalings at which they move into the kernel: no entry of it is then lost that could count."""


def transport_plan(
    cost: Float[np.ndarray, "rows others"],
    labels: Any = None,
    *,
    regularisation: float,
    class_regularisation: float = 0.0,
    tolerance: float = 1e-6,
    max_iterations: int = 20_000,
) -> np.ndarray:
    """The plan of `min_γ Σ γ_ij C_ij + ε Σ γ_ij log γ_ij + η Σ_j Σ_c ‖γ(I_c, j)‖₂`, `γ 1 = 1/n`, `γᵀ 1 = 1/m`.

    I_c are the rows of class c. With ε alone it is Sinkhorn's: two scalings of `exp(−C/ε)`, whose logarithms move into
    the kernel before they overflow (Schmitzer, 2016, arXiv 1610.06519). With η each step is a plan of Sinkhorn's too,
    `min_γ Σ γ_ij (C + η G_k)_ij + ε Σ γ_ij log γ_ij + η KL(γ ‖ γ_k)`, G_k the group lasso's gradient at γ_k. The
    Hessian of a norm, `(I − g gᵀ) / ‖γ‖`, is at most that of the entropy, `diag(1/γ)`. So the objective falls in each
    step, and the distance to the minimum by η/(ε + η) (Lu et al., 2016, arXiv 1610.05708). With ε = 0 the plan is
    exact: SciPy's assignment for as many rows as columns, and its linear program otherwise, which takes seconds for 500
    rows and 400 columns.

    Args:
      cost: C, not negative.
      labels: one integer per row; a negative one is of no class. Needed if and only if η is positive.
      regularisation: ε divided by the mean of C.
      class_regularisation: η divided by the mean of C; it needs a positive ε.
      tolerance: the largest total error of an entropic plan's row sums, and with η the largest distance of the plan
        from the limit of its steps.
      max_iterations: the largest number of scalings in all steps; a RuntimeWarning tells if they do not suffice.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.adapt.transport_plan import transport_plan
      >>> cost = np.array([[0.0, 1.0], [1.0, 0.0]])
      >>> transport_plan(cost, regularisation=0.0).tolist()
      [[0.5, 0.0], [0.0, 0.5]]
      >>> transport_plan(cost, regularisation=0.5).round(3).tolist()
      [[0.491, 0.009], [0.009, 0.491]]

    Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport, 2013, arXiv 1306.0895.
    """
    if not regularisation:
        return _exact(cost)
    mean = cost.mean()
    c, eps, eta = cost / (mean if mean > 0 else 1.0), regularisation, class_regularisation
    share = eps / (eps + eta)
    enough = 0.1 * tolerance * share if eta else tolerance
    roughly = 0.01 if eta else enough  # where a plan is no more than the start of the next
    logp, column, error, left = _scaled(-c / eps, np.zeros(c.shape[1]), roughly, max_iterations)
    moved = np.inf if eta else 0.0
    while (off := max(error / enough, moved / (tolerance * share))) > 1 and eta and left > 0:
        before = logp
        logk = (eta * before - c - eta * np.exp(before - _log_norms(before, np.asarray(labels)))) / (eps + eta)
        logp, column, error, left = _scaled(logk, column, max(enough, min(roughly, 0.1 * moved)), left)
        moved = float(np.abs(np.exp(logp) - np.exp(before)).sum())
    if off > 1:
        warnings.warn(
            f"the transport plan stopped after {max_iterations} scalings at an error of {off * tolerance:.1e}, not "
            f"{tolerance:.1e}: give more regularisation or max_iterations, or a larger tolerance",
            RuntimeWarning,
            stacklevel=3,
        )
    return np.exp(logp)


def _scaled(
    logk: np.ndarray, column: np.ndarray, enough: float, left: int
) -> tuple[np.ndarray, np.ndarray, float, int]:
    """The scaled kernel's logarithm, the logarithm of its columns' scalings, its rows' error, and how many are left."""
    n, m = logk.shape
    while True:
        row = -np.log(n) - _logsumexp(logk + column[None], 1)
        column = -np.log(m) - _logsumexp(logk + row[:, None], 0)
        kernel = np.exp(logk + row[:, None] + column[None])
        left -= 1
        a, b = np.ones(n), np.ones(m)
        while True:
            sums = kernel @ b
            error = float(np.abs(a * sums - 1 / n).sum())
            if error <= enough or left <= 0 or max(np.abs(np.log(a)).max(), np.abs(np.log(b)).max()) > FAR:
                break
            a = 1 / (n * sums)
            b = 1 / (m * (a @ kernel))
            left -= 1
        row, column = row + np.log(a), column + np.log(b)
        if error <= enough or left <= 0:
            return logk + row[:, None] + column[None], column, error, left


def _log_norms(logp: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`log ‖γ(I_c, j)‖₂` at each row of class c, and infinity at a row of none, whose gradient is then 0."""
    found = np.full(logp.shape, np.inf)
    for c in np.unique(labels[labels >= 0]):
        found[labels == c] = 0.5 * _logsumexp(2 * logp[labels == c], 0)[None]
    return found


def _logsumexp(a: np.ndarray, axis: int) -> np.ndarray:
    top = a.max(axis, keepdims=True)
    return top.squeeze(axis) + np.log(np.exp(a - top).sum(axis))


def _exact(cost: np.ndarray) -> np.ndarray:
    from scipy import sparse  # jax depends on SciPy
    from scipy.optimize import linear_sum_assignment, linprog

    n, m = cost.shape
    if n == m:
        plan = np.zeros(cost.shape)
        plan[linear_sum_assignment(cost)] = 1 / n
        return plan
    sums = sparse.vstack(
        [sparse.kron(sparse.eye_array(n), np.ones((1, m))), sparse.kron(np.ones((1, n)), sparse.eye_array(m))],
        format="csr",
    )
    # The solver's tolerances are absolute, and a row far from all others must not make the other costs small. What a
    # row or a column costs at least is in every plan, so it is left out; the middle cost is 1, and a row's mass m.
    c = cost - cost.min(1)[:, None]
    c = c - c.min(0)[None]
    scale = np.median(c[c > 0]) if (c > 0).any() else 1.0
    found = linprog(c.ravel() / scale, A_eq=sums, b_eq=np.repeat([m, n], [n, m]), method="highs-ds")
    return np.maximum(found.x, 0.0).reshape(n, m) / (n * m)
