"""Transport of features against SciPy's solvers, the conditions of its minima, and closed forms."""

import numpy as np
import pytest

from jtl import alignments
from jtl.methods.adapt.jdot import sinkhorn
from jtl.methods.adapt.row_distances import squared_distances
from jtl.methods.adapt.transport_plan import transport_plan

DRAW = np.random.default_rng(0)
SOURCE, TARGET = DRAW.normal(size=(12, 3)), DRAW.normal(size=(9, 3)) + 1
LABELS = np.arange(12) % 3
COST = squared_distances(SOURCE, TARGET)
EVEN = COST / COST.mean()


def test_distances_are_those_of_scipy_far_from_zero_too():
    cdist = pytest.importorskip("scipy.spatial.distance").cdist
    for shift in (0.0, 1e6):
        found = squared_distances(SOURCE + shift, TARGET + shift)
        np.testing.assert_allclose(found, cdist(SOURCE + shift, TARGET + shift, "sqeuclidean"), rtol=1e-9)


def test_the_exact_plan_of_other_sizes_is_the_assignment_of_repeated_rows():
    assignment = pytest.importorskip("scipy.optimize").linear_sum_assignment
    times, others = 3, 4  # 36 of each
    chosen = assignment(np.repeat(np.repeat(COST, times, 0), others, 1))[1] // others
    plan = np.zeros(COST.shape)
    np.add.at(plan, (np.repeat(np.arange(12), times), chosen), 1 / 36)
    np.testing.assert_allclose(transport_plan(COST, regularisation=0.0), plan, atol=1e-12)
    found = alignments.transport_map(SOURCE, TARGET, regularisation=0.0)
    np.testing.assert_allclose(found, 12 * plan @ TARGET, atol=1e-12)


def test_exact_plans_of_far_domains_and_rows_are_those_of_near_ones():
    """The solver's tolerances were so large beside such distances that it stopped at other plans."""
    near = alignments.transport_map(SOURCE, TARGET, regularisation=0.0)
    for shift in (1e4, 1e7):
        far = alignments.transport_map(SOURCE, TARGET + shift, regularisation=0.0)
        np.testing.assert_allclose(far - shift, near, rtol=0, atol=1e-6)
    # Whatever the distance of one row, it takes the same share of the others.
    ways = [SOURCE + 10.0**power * (np.arange(12) == 0)[:, None] for power in (4, 6)]
    plans = [transport_plan(squared_distances(x, TARGET), regularisation=0.0) for x in ways]
    np.testing.assert_allclose(plans[0], plans[1], rtol=0, atol=1e-12)


def test_a_line_is_mapped_in_its_order_and_a_shift_is_found():
    x, y = DRAW.normal(size=(2, 20, 1))
    wanted = np.sort(y, 0)[np.argsort(np.argsort(x[:, 0]))]
    np.testing.assert_allclose(alignments.transport_map(x, y, regularisation=0.0), wanted)
    shifted = SOURCE + np.array([[0.3, 0.0, -0.2]])
    moved = shifted[DRAW.permutation(12)]
    np.testing.assert_allclose(alignments.transport_map(SOURCE, moved, regularisation=0.0), shifted)
    # The entropic map tends to the exact one.
    found = [alignments.transport_map(SOURCE, moved, regularisation=eps, tolerance=1e-4) for eps in (0.05, 0.01)]
    off = [np.abs(x - shifted).max() for x in found]
    assert off[1] < 0.01 < 0.1 < off[0]


def test_the_entropic_plan_is_the_maximum_of_the_dual():
    minimize = pytest.importorskip("scipy.optimize").minimize
    eps = 0.05

    def dual(potentials):
        u, v = np.split(potentials, [12])
        plan = np.exp((u[:, None] + v[None] - EVEN) / eps)
        return eps * plan.sum() - u.mean() - v.mean(), np.r_[plan.sum(1) - 1 / 12, plan.sum(0) - 1 / 9]

    best = minimize(dual, np.r_[EVEN.min(1), np.zeros(9)] - 0.3, jac=True, options={"gtol": 1e-9, "maxiter": 5000}).x
    wanted = np.exp((best[:12, None] + best[None, 12:] - EVEN) / eps)
    np.testing.assert_allclose(transport_plan(COST, regularisation=eps, tolerance=1e-9), wanted, atol=1e-7)
    found = alignments.transport_map(SOURCE, TARGET, regularisation=eps, tolerance=1e-9)
    np.testing.assert_allclose(found, wanted / wanted.sum(1)[:, None] @ TARGET, atol=1e-5)
    # The library's other solver, of the objective of `deep_jdot`, in float32.
    theirs, _ = sinkhorn(COST.astype(np.float32), regularisation=eps, iterations=500)
    np.testing.assert_allclose(theirs, wanted, atol=1e-5)


def objective(plan, eps, eta):
    norms = sum(np.linalg.norm(plan[c == LABELS], axis=0).sum() for c in range(3))
    return (plan * EVEN).sum() + eps * (plan * np.log(plan)).sum() + eta * norms


@pytest.mark.parametrize(("eps", "eta"), [(0.5, 0.3), (0.05, 0.5)])
def test_the_plan_of_classes_fulfils_the_conditions_of_the_only_minimum(eps, eta):
    # Few scalings suffice, because only the last plans are solved closely.
    given = {"regularisation": eps, "class_regularisation": eta, "tolerance": 1e-9, "max_iterations": 400}
    plan = transport_plan(COST, LABELS, **given)
    np.testing.assert_allclose(plan.sum(0), 1 / 9)
    np.testing.assert_allclose(plan.sum(1), 1 / 12, atol=1e-9)
    norms = np.zeros(plan.shape)
    for c in range(3):
        norms[c == LABELS] = np.linalg.norm(plan[c == LABELS], axis=0)
    slope = EVEN + eps * np.log(plan) + eta * plan / norms
    # The gradient is a sum of a number of each row and a number of each column. The objective is strictly convex.
    left = slope - slope.mean(0) - slope.mean(1, keepdims=True) + slope.mean()
    np.testing.assert_allclose(left, 0.0, atol=1e-6)
    plain = transport_plan(COST, regularisation=eps, tolerance=1e-9)
    assert objective(plain, eps, eta) > objective(plan, eps, eta) + 1e-4
    # Any way within the constraints leads up.
    for _ in range(5):
        way = DRAW.normal(size=plan.shape)
        way -= way.mean(0) + way.mean(1, keepdims=True) - way.mean()
        step = 1e-2 * (plan / np.abs(way)).min()
        assert objective(plan + step * way, eps, eta) >= objective(plan, eps, eta)


def test_rows_of_no_class_have_no_term_and_an_order_of_rows_changes_nothing():
    call = {"regularisation": 0.2, "class_regularisation": 0.5, "tolerance": 1e-9}
    none = alignments.transport_map(SOURCE, TARGET, np.full(12, -1), **call)
    plain = alignments.transport_map(SOURCE, TARGET, regularisation=0.2, tolerance=1e-9)
    np.testing.assert_allclose(none, plain, atol=1e-7)
    some = np.where(np.arange(12) < 8, LABELS, -1)
    found = alignments.transport_map(SOURCE, TARGET, some, **call)
    assert np.abs(found - plain).max() > 0.01
    order, other = DRAW.permutation(12), DRAW.permutation(9)
    again = alignments.transport_map(SOURCE[order], TARGET[other], some[order], **call)
    np.testing.assert_allclose(again, found[order], atol=1e-7)


def test_classes_send_more_of_a_target_rows_mass_from_one_class():
    def purity(plan):
        return np.max([plan[c == LABELS].sum(0) for c in range(3)], 0).sum()

    plans = [transport_plan(COST, LABELS, regularisation=0.05, class_regularisation=eta) for eta in (1e-9, 1.0)]
    assert purity(plans[1]) > purity(plans[0]) + 0.01


def test_what_was_mapped_keeps_its_place_out_of_sample():
    mapped = alignments.transport_map(SOURCE, TARGET)
    np.testing.assert_allclose(alignments.out_of_sample(SOURCE, SOURCE, mapped), mapped)
    near = alignments.out_of_sample(SOURCE[3:4] + 1e-3, SOURCE, mapped)
    np.testing.assert_allclose(near, mapped[3:4] + 1e-3)


def test_too_few_scalings_are_told():
    with pytest.warns(RuntimeWarning, match="stopped after 3 scalings"):
        alignments.transport_map(SOURCE, TARGET, regularisation=0.01, max_iterations=3)
    with pytest.warns(RuntimeWarning, match="stopped after 40 scalings"):
        alignments.transport_map(
            SOURCE, TARGET, LABELS, regularisation=0.2, class_regularisation=2.0, tolerance=1e-9, max_iterations=40
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignments.transport_map(SOURCE, TARGET, regularisation=-1.0), r"regularisation=-1\.0"),
        (lambda: alignments.transport_map(SOURCE, TARGET, tolerance=0.0), r"tolerance=0\.0"),
        (lambda: alignments.transport_map(SOURCE, TARGET, max_iterations=0), "max_iterations=0"),
        (lambda: alignments.transport_map(SOURCE, TARGET, class_regularisation=0.1), "needs labels"),
        (lambda: alignments.transport_map(SOURCE, TARGET, LABELS), "class_regularisation=0: give both"),
        (
            lambda: alignments.transport_map(SOURCE, TARGET, LABELS, regularisation=0.0, class_regularisation=1.0),
            r"above 0, which is 0\.0",
        ),
        (
            lambda: alignments.transport_map(SOURCE, TARGET, LABELS[:5], class_regularisation=1.0),
            r"labels.*\(5,\)|Type-check",
        ),
        (lambda: alignments.transport_map(SOURCE, TARGET[:, 1:]), r"shapes \(12, 3\) and \(9, 2\)"),
        (lambda: alignments.out_of_sample(SOURCE[:, 1:], SOURCE, SOURCE), r"\(12, 2\)|Type-check"),
        (lambda: alignments.out_of_sample(SOURCE, SOURCE, SOURCE[:5]), "5 mapped|Type-check"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
