"""The README and the pages of docs/: their Python blocks run, their commands exist, their links lead somewhere."""

import re
from pathlib import Path

import jax
import pages
import pytest

import jtl
from jtl import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [path for path in PAGES if any(b.language == "python" and not b.skipped for b in pages.blocks(path.read_text()))]


def name(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    pages.workspace(root)
    return root


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("path", RUN, ids=name)
def test_python_blocks_run(path, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    # A reader's session has ranks that broadcast.
    with jax.numpy_rank_promotion("allow"):
        assert pages.run(path) > 0


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 8192


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_blocks_say_their_language_and_links_lead_somewhere(path):
    text = path.read_text()
    assert text.count("```") == 2 * len(pages.blocks(text)), "a fenced block without a language"
    prose = pages.BLOCK.sub("", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{target} is not there"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found.read_text()), f"{target}: the page has no such heading"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_names_of_the_library_exist(path):
    """Every `jtl.a.b` in a code span leads to something, also where no block runs it."""
    prose = pages.BLOCK.sub("", path.read_text())
    for dotted in re.findall(r"(?<![\w./'-])jtl(?:\.[a-z_]\w*)+", " ".join(re.findall(r"`([^`\n]+)`", prose))):
        found = jtl
        for part in dotted.split(".")[1:]:
            assert hasattr(found, part), f"{dotted} is not there"
            found = getattr(found, part)


def anchors(text):
    """GitHub's names of a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", pages.BLOCK.sub("", text), re.MULTILINE)
    }


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_exist(path, capsys):
    shell = "".join(b.text for b in pages.blocks(path.read_text()) if b.language in ("console", "bash", "sh"))
    for command in re.findall(r"^(?:\$ )?jtl (\w+)", shell, re.MULTILINE):
        assert cli.main([command, "--help"]) == 0, f"jtl {command}"
    capsys.readouterr()


def test_a_block_that_fails_is_named_by_page_and_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nx = 1\n```\n\n<!-- not run: needs a hub -->\n```python\n1 / 0\n```\n")
    assert [block.skipped for block in pages.blocks(page.read_text())] == ["", "needs a hub"]
    assert pages.run(page) == 1
    page.write_text("# A page\n\n```python\nx = 1\n```\n\n```python\ny = x\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        pages.run(page)
    last = error.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 9)
