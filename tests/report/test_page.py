"""A page escapes what it is given, and needs nothing else."""

from html.parser import HTMLParser

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
    assert page.write(tmp_path / "deep" / "page.html").read_text(encoding="utf-8") == page.text()
