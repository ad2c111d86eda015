"""MAML in jtl and in two ways of torch find the same meta-gradient, and the script tells how fast each is."""

import json
import mmap

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import meta_against_torch as beside
from benchmarks import tables

TINY = ["--inner-steps", "1", "--tasks", "2", "--filters", "4", "--pairs", "2", "--seconds", "0.001"]


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine make a tiny network a hundred times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.compiling
def test_meta_gradients_agree_and_the_table_has_the_ratios(tmp_path):
    out = tmp_path / "rows.json"
    beside.main(["meta_against_torch.py", *TINY, "--json", str(out)])
    results = json.loads(out.read_text())
    rows = {row["way"]: row for row in results["rows"]}
    assert list(rows) == ["jtl", "loop", "torch.func"]
    for way in ("loop", "torch.func"):
        assert rows[way]["first_loss"] == pytest.approx(rows["jtl"]["first_loss"], rel=1e-4), "float32 sums"
        quotients = np.divide(rows[way]["seconds"], rows["jtl"]["seconds"])
        assert rows[way]["ratio"] == pytest.approx(np.median(quotients))
    assert f"{rows['loop']['ratio']:.2f} (" in out.with_suffix(".md").read_text() == tables.render(results)


@pytest.mark.slow
@pytest.mark.compiling
def test_a_first_order_gradient_is_refused(tmp_path, monkeypatch):
    second = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: [g.detach() for g in second(*a, **k)])
    with pytest.raises(ValueError, match="meta-gradient of loop is off by"):
        beside.main(["meta_against_torch.py", *TINY, "--ways", "loop", "--json", str(tmp_path / "rows.json")])


def test_gradients_are_compared_place_by_place():
    """Each kind of leaf in jtl's layout against torch's; one number that differs counts by its share of the length."""
    draw = np.random.default_rng(0)
    conv, dense, scale = draw.normal(size=(3, 3, 1, 2)), draw.normal(size=(2, 5)), draw.normal(size=2)
    moments = {"conv": {"kernel": conv}, "out": {"kernel": dense, "bias": np.zeros(5)}, "norm": {"scale": scale}}
    theirs = {
        "conv.weight": conv.transpose(3, 2, 0, 1) / 0.1,
        "out.weight": dense.T / 0.1,
        "out.bias": np.zeros(5),
        "norm.weight": scale / 0.1,
    }
    assert beside._apart(moments, theirs) < 1e-12
    theirs["out.bias"] = np.array([0, 2.0, 0, 0, 0])
    length = np.sqrt(sum(np.square(g).sum() for g in theirs.values()))
    assert beside._apart(moments, theirs) == pytest.approx(2 / length)


def test_the_growth_of_the_process_is_that_of_an_array():
    kept = []

    def run(n):
        # Pages from the system, because malloc may have freed ones left: other tests let the process keep them.
        pages = np.frombuffer(mmap.mmap(-1, 128_000_000 * n), np.uint8)
        pages[:] = 1
        kept.append(pages)

    grown = beside.grown(run)
    if grown is None:
        pytest.skip("this system does not say how much memory a process holds")
    assert grown == pytest.approx(128e6, rel=0.1)
