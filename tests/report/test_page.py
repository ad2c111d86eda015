"""A page escapes what it is given, and needs nothing else."""

from html.parser import HTMLParser

import jax
import numpy as np
from PIL import Image

from jtl.report.page import Page


class Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.words, self.tags, self.sources = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name == "src"]

    def handle_data(self, data):
        self.words.append(data)


def parsed(page):
    found = Text()
    found.feed(page.text())
    return found


def test_text_is_escaped_everywhere(tmp_path):
    bad = "<script>alert('x')</script>&"
    page = Page(bad)
    page.heading(bad)
    page.say(bad, "note")
    page.code(bad)
    page.table((bad,), [(bad,)])
    page.cards([(bad, bad, False)])
    found = parsed(page)
    assert "script" not in found.tags
    assert sum(bad in word for word in found.words) >= 8


def test_pictures_are_within_the_page(tmp_path):
    file = tmp_path / "a'b.png"
    Image.fromarray(np.full((30, 50, 3), 200, np.uint8)).save(file)
    page = Page("pictures")
    page.cards([(file, "ants (90 %)", True)])
    page.figure(lambda path: Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path), "a 'black' square")
    found = parsed(page)
    assert [source.split(",")[0] for source in found.sources] == ["data:image/jpeg;base64", "data:image/png;base64"]
    assert found.words.count("a'b.png") == 1  # beside its picture
    assert page.write(tmp_path / "deep" / "page.html").read_text(encoding="utf-8") == page.text()


def test_a_matrix_has_a_cell_for_each_pair_and_is_escaped():
    """As a parser reads it: the row of each true class, counts where there are any, and dark cells in white print."""
    page, names = Page("matrix"), ["a", "<b>", "it's"]
    page.matrix(np.array([[98, 2, 0], [0, 5, 5], [0, 0, 0]]), names)
    found = parsed(page)
    assert found.tags.count("td") == 9
    assert "b" not in found.tags
    words = [word for word in found.words if word.strip()]
    place = words.index("true \\ predicted")
    assert words[place:] == ["true \\ predicted", *names, "a", "98", "2", "<b>", "5", "5", "it's"]
    assert page.text().count("class='d'") == 3
    assert "title='a taken for &lt;b&gt;' style='background:rgba(8,48,107,0.14)'>2<" in page.text()  # sqrt(2 / 100)


def test_long_names_stand_upright():
    for names, upright in ((["ants", "bees"], False), (["a" * 13, "b"], True), ([str(i) for i in range(9)], True)):
        page = Page("matrix")
        page.matrix(np.eye(len(names), dtype=int), names)
        assert ("class='up'" in page.text()) == upright


def test_lines_can_be_folded():
    page = Page("fold")
    page.code("many\nlines", "2 < 3")
    found = parsed(page)
    assert found.tags[-3:] == ["details", "summary", "pre"]
    assert "2 < 3" in found.words


def test_numbers_of_numpy_stand_right_too():
    page = Page("t")
    page.table(("a", "b"), [(np.float32(0.123456789), np.int64(3))])
    assert "<td class='n'>0.1235</td><td class='n'>3</td>" in page.text()


def test_the_environment_has_settings_device_and_versions():
    page = Page("A run")
    page.environment({"seed": 0, "data": "<photos>"})
    words = parsed(page).words
    assert words[words.index("seed") + 1] == "0"
    assert words[words.index("data") + 1] == "<photos>"
    assert words[words.index("jax") + 1] == jax.__version__
    assert words[words.index("device") + 1] == jax.devices()[0].device_kind
