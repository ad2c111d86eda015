import numpy as np
import pytest
from PIL import Image

from jtl.report import confusion, curves, domains
from jtl.report.bars import bars
from jtl.report.figures import shares, short
from jtl.report.page import Page


def colours(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_shares_are_rows_over_their_sums():
    np.testing.assert_array_equal(shares([[1, 3], [0, 0]]), [[0.25, 0.75], [0.0, 0.0]])


def test_a_perfect_matrix_is_dark_on_the_diagonal_alone(tmp_path):
    perfect = colours(confusion(np.diag([5, 5, 5]), "abc", tmp_path / "deep" / "a.png", title="t"))
    wrong = colours(confusion(np.diag([5, 5, 5])[::-1], "abc", tmp_path / "b.png", title="t"))
    # The darkest of matplotlib's Blues, which a share of 1 has and nothing else in the figure.
    dark = [np.argwhere(np.abs(image - [8, 48, 107]).sum(-1) < 6) for image in (perfect, wrong)]
    assert len(dark[0]) > 1000
    correlation = [np.corrcoef(points.T)[0, 1] for points in dark]
    assert correlation[0] > 0.5, "from upper left to lower right"
    assert correlation[1] < -0.5, "and the mirrored matrix the other way"


def test_a_matrix_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(2, 3\) for 2 classes"):
        confusion(np.zeros((2, 3)), "ab", tmp_path / "a.png")


def test_a_curve_falls_where_its_values_fall(tmp_path):
    falling = {"loss": np.linspace(1, 0, 50)}
    image = colours(curves(falling, tmp_path / "a.png", title="t"))
    line = np.argwhere(np.abs(image - [31, 119, 180]).sum(-1) < 6)  # matplotlib's first colour
    rows, columns = line[line[:, 1] > image.shape[1] * 0.2][:, 0], line[line[:, 1] > image.shape[1] * 0.2][:, 1]
    left, right = rows[columns < np.median(columns)], rows[columns > np.median(columns)]
    assert left.mean() < right.mean(), "rows count from the top"


def test_several_runs_get_a_band(tmp_path):
    runs = np.stack([np.linspace(1, 0, 20), np.linspace(2, 1, 20)])
    one = colours(curves({"loss": runs.mean(0)}, tmp_path / "a.png"))
    band = colours(curves({"loss": runs}, tmp_path / "b.png"))
    coloured = [((image.max(-1) - image.min(-1)) > 20).sum() for image in (one, band)]
    assert coloured[1] > 3 * coloured[0]


def test_names_are_no_mathematics(tmp_path):
    """Which matplotlib takes dollars for, and fails on what it does not know."""
    name = r"$\foo$"
    confusion(np.eye(2, dtype=int), [name, "$5 or $6"], tmp_path / "a.png", title=name)
    curves({name: [1, 2], "_hidden": [2, 1]}, tmp_path / "b.png", title=name, ylabel=name)


def test_a_thousand_classes_have_a_figure(tmp_path):
    """Of the size of sixty's: a row each half an inch high would be 14 GB."""
    with Image.open(confusion(np.eye(1000, dtype=int), ["a"] * 1000, tmp_path / "a.png")) as image:
        assert max(image.size) < 4500
    with pytest.raises(ValueError, match=r"\(0, 0\) for 0 classes"):
        confusion(np.zeros((0, 0)), "", tmp_path / "a.png")


@pytest.mark.parametrize("series", [{}, {"loss": np.zeros((2, 3, 4))}, {"loss": []}, {"loss": [[1], [1, 2]]}])
def test_what_is_no_curve_is_refused(series, tmp_path):
    with pytest.raises(ValueError, match=r"no series|series 'loss'"):
        curves(series, tmp_path / "a.png")


def test_a_band_on_a_logarithmic_axis_ends_at_the_lowest_run(tmp_path):
    """Mean 0.5, deviation 0.7: the band would end at -0.2. It ends at the lower run, so no pixel is below that."""
    low, high = np.full(50, 0.01), np.full(50, 1.0)
    image = colours(curves({"loss": np.stack([low, high])}, tmp_path / "a.png", log=True))
    band = np.argwhere(np.abs(image - [210, 228, 240]).sum(-1) < 8)  # a fifth of matplotlib's first colour on white
    assert len(band) > 1000
    # The axis spans 0.01 to about 1.2: the band ends above the frame's last row, not at it.
    frame = np.argwhere((image.sum(-1) < 60).mean(1) > 0.5)[:, 0]
    assert band[:, 0].max() < frame.max() - 5


def test_rates_stand_on_a_logarithmic_axis(tmp_path):
    """The lowest point of a curve lies at the geometric mean of the ends, so in the middle of the figure's frame."""
    rates = np.geomspace(1e-6, 1e-2, 41)
    falling_and_rising = np.abs(np.arange(41) - 20.0)
    image = colours(curves({"loss": falling_and_rising}, tmp_path / "a.png", x=rates, xlabel="learning rate"))
    line = np.argwhere(np.abs(image - [31, 119, 180]).sum(-1) < 6)
    line = line[line[:, 1] > image.shape[1] * 0.12]
    lowest = np.median(line[line[:, 0] >= line[:, 0].max() - 2][:, 1])
    ends = line[line[:, 0] <= line[:, 0].max() - 60][:, 1]
    assert abs(lowest - (ends.min() + ends.max()) / 2) < 8
    with pytest.raises(ValueError, match=r"series 'loss' has 41 values, and x is of shape \(3,\)"):
        curves({"loss": falling_and_rising}, tmp_path / "a.png", x=[1, 2, 3])


def test_a_hundred_classes_have_their_names_beside_the_matrix(tmp_path):
    """Dark print left of the frame, in every row of the matrix; none for two hundred, which have no room."""
    prints = []
    for count in (100, 200):
        image = colours(confusion(np.eye(count, dtype=int), ["name"] * count, tmp_path / "a.png"))
        blue = np.argwhere(np.abs(image - [8, 48, 107]).sum(-1) < 6)
        (top, left), (bottom, _) = blue.min(0), blue.max(0)
        beside = (image[top:bottom, left - 40 : left - 8].max(-1) < 120).any(1)
        prints.append(np.count_nonzero(np.diff(beside.astype(int)) == 1))
    assert prints[0] >= 95
    assert prints[1] <= 10  # the numbers of every 25th


ODD = "weights=/a/$w_{$1"


def test_names_of_all_figures_are_no_mathematics(tmp_path):
    """matplotlib parses what is between two `$`, and ends with an error where it is none of its own language."""
    assert bars({ODD: (1, 0), "nan": (np.nan, np.nan)}, tmp_path / "a.png", xlabel="$x_{$", title=ODD).exists()
    rows = np.random.default_rng(0).normal(size=(9, 3))
    assert domains({ODD: {"so$_{$": rows, "_b": rows}}, tmp_path / "b.png").exists()
    assert curves({ODD: [1.0, 2.0]}, tmp_path / "c.png", xlabel="$_{$").exists()


@pytest.mark.filterwarnings("error")
def test_long_names_leave_room_for_what_they_name(tmp_path):
    blue = np.abs(colours(confusion(np.eye(5, dtype=int), ["x" * 300] * 5, tmp_path / "a.png")) - [8, 48, 107]).sum(-1)
    assert (blue < 6).sum() > 1000
    assert bars({"/".join(["folder"] * 40) + str(i): (i, 0) for i in range(3)}, tmp_path / "b.png").exists()
    assert [short("/home/user/photos/a", 9), short("night", 9)] == ["/hom…os/a", "night"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: confusion(np.full((2, 2), np.nan), "ab", path), "4 values that are not finite"),
        (lambda path: domains({"x": {"a": np.full((3, 2), np.nan)}}, path), "features of 'a' are not finite"),
        (lambda path: curves({"a": [-1.0, -2.0]}, path, log=True), "'a' has no number above zero"),
        (lambda path: Page("t").matrix(np.full((2, 2), np.nan), "ab"), "4 values that are not finite"),
        (lambda path: Page("t").matrix(np.zeros((0, 0)), ""), r"\(0, 0\) for 0 classes"),
        (lambda path: Page("t").matrix(np.zeros((2, 2)), "abc"), r"\(2, 2\) for 3 classes"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "a.png")
