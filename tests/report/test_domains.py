import numpy as np
import pytest

from jtl.report.bars import bars
from jtl.report.domains import domains, plane


def test_the_plane_is_that_of_principal_components():
    decomposition = pytest.importorskip("sklearn.decomposition")
    draw = np.random.default_rng(0)
    named = {"source": draw.normal(size=(30, 6)) * [5, 3, 1, 1, 1, 1], "target": draw.normal(2, 1, size=(30, 6))}
    found = np.concatenate([*plane(named, rows=30).values()])
    drawn = np.random.default_rng(0)
    joint = np.concatenate([f[drawn.permutation(30)] for f in named.values()])
    expected = decomposition.PCA(2, svd_solver="full").fit_transform(joint)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-10)  # a direction's sign is arbitrary


def test_each_domain_has_as_many_points_and_one_feature_is_drawn_on_a_line():
    found = plane({"a": np.arange(5.0)[:, None], "b": np.arange(3.0)[:, None]})
    assert {name: p.shape for name, p in found.items()} == {"a": (3, 2), "b": (3, 2)}
    assert all((p[:, 1] == 0).all() for p in found.values())


def test_pictures_are_written_and_mistakes_are_named(tmp_path):
    rows = np.random.default_rng(0).normal(size=(9, 3))
    assert domains({"before": {"a": rows, "b": rows}, "after": {"a": rows}}, tmp_path / "f.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="no panel"):
        domains({}, tmp_path / "f.png")
    with pytest.raises(ValueError, match="one width"):
        plane({"a": rows, "b": rows[:, :2]})
    with pytest.raises(ValueError, match="at least one row"):
        plane({"a": rows[:0]})
    with pytest.raises(ValueError, match="no values"):
        bars({}, tmp_path / "b.png")
