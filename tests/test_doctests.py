"""The examples of docstrings run, and every public function has one."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import jax
import pytest

import jtl

MODULES = [m.name for m in pkgutil.walk_packages(jtl.__path__, "jtl.") if not m.name.endswith("__main__")]


def _examples(name):
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(importlib.import_module(name)) if test.examples]


@pytest.mark.whole
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    # The examples are written for one device and for ranks that broadcast, as a user's session has them.
    with jax.numpy_rank_promotion("allow"):
        for test in _examples(name):
            out: list[str] = []
            assert runner.run(test, out=out.append).failed == 0, "".join(out)


@pytest.mark.parametrize("name", jtl.__all__)
def test_every_public_function_has_an_example(name):
    found = getattr(jtl, name)
    if inspect.ismodule(found) or not callable(found):
        return
    if inspect.isclass(found) and (issubclass(found, tuple | Exception) or name in RESULTS):
        return  # a record, which is what a function returns
    assert ">>>" in (inspect.getdoc(found) or ""), f"jtl.{name} has no example"


SECTION = re.compile(r"^( *)(?:Args|Returns|Raises|Example):\n\1(?!  \S)", re.MULTILINE)
"""The head of a docstring's section whose first line is not two spaces further in."""


def test_sections_of_docstrings_are_indented_by_two_spaces():
    wrong = []
    for path in sorted(Path(jtl.__path__[0]).rglob("*.py")):
        text = path.read_text()
        wrong += [f"{path.name}:{text.count(chr(10), 0, found.start()) + 1}" for found in SECTION.finditer(text)]
    assert not wrong


def leads_somewhere(dotted):
    """Whether a name of the library is there, as an attribute or as a module that a name of its package covers."""
    found = jtl
    for part in dotted.split(".")[1:]:
        if not hasattr(found, part):
            break
        found = getattr(found, part)
    else:
        return True
    try:
        return importlib.util.find_spec(dotted) is not None
    except ModuleNotFoundError:
        return False


def test_names_that_docstrings_point_to_exist():
    assert not leads_somewhere("jtl.pretrained.embedder")
    wrong = []
    for path in sorted(Path(jtl.__path__[0]).rglob("*.py")):
        for dotted in sorted(set(re.findall(r"`(jtl(?:\.[A-Za-z_]\w*)+)", path.read_text()))):
            if not leads_somewhere(dotted):
                wrong.append(f"{path.name}: {dotted}")
    assert not wrong


RESULTS = ("State", "Step", "Sums")
"""Classes that functions return, and nobody makes by hand."""
