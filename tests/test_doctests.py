"""The examples of docstrings run, and every public function and class has one."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap
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


def rooms():
    """The modules that users import from: `jtl`, those that it names, those that these name, and three more."""
    found = [getattr(jtl, name).__name__ for name in jtl.__all__ if inspect.ismodule(getattr(jtl, name))]
    for room in list(found):
        tree = ast.parse(inspect.getsource(importlib.import_module(room)))
        named = [node.names for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == room]
        found += [f"{room}.{alias.name}" for names in named for alias in names]
    return ["jtl", *found, "jtl.params", "jtl.transform.batch_statistics", "jtl.transform.intercept"]


def public(room):
    """What users call of a room, by name: its own, or where it is a package or has none, all that it imports of jtl."""
    module = importlib.import_module(room)
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    found = {n: o for n, o in found.items() if callable(o) and str(getattr(o, "__module__", "")).startswith("jtl")}
    own = {name: value for name, value in found.items() if value.__module__ == room}
    return own if own and not hasattr(module, "__path__") else found


def lacking(objects):
    """The names of objects, but for named tuples and errors, without an example that `test_examples_run` runs."""
    values = {n: o for n, o in objects.items() if not (inspect.isclass(o) and issubclass(o, tuple | Exception))}
    run = {test.name for module in {value.__module__ for value in values.values()} for test in _examples(module)}
    return {name for name, value in values.items() if f"{value.__module__}.{value.__qualname__}" not in run}


def test_every_public_object_of_every_room_has_an_example_that_runs():
    found = {f"{room}.{name}": value for room in rooms() for name, value in public(room).items()}
    assert len(found) > 500
    assert lacking(found) == NO_EXAMPLE.keys()


def test_an_object_without_an_example_is_seen():
    assert lacking({"dann": jtl.dann, "without": leads_somewhere}) == {"without"}
    assert {"jtl.data.augment", "jtl.preprocess.audio", "jtl.optim"} <= set(rooms())


def raising(value):
    """Whether a statement of its own raises, in a class one of those that make it."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value)))).body
    body = [n for n in node.body if getattr(n, "name", "") in MAKING] if isinstance(node, ast.ClassDef) else [node]
    return any(isinstance(n, ast.Raise) and n.exc is not None for part in body for n in ast.walk(part))


MAKING = ("__init__", "__post_init__")


def test_what_raises_says_so():
    found = {f"{room}.{name}": value for room in rooms() for name, value in public(room).items()}
    assert [n for n, o in found.items() if raising(o) and "Raises:" not in (inspect.getdoc(o) or "")] == []
    assert raising(jtl.select)
    assert not raising(jtl.dann)


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
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


def test_names_that_docstrings_point_to_exist():
    assert not leads_somewhere("jtl.pretrained.embedder")
    wrong = []
    for path in sorted(Path(jtl.__path__[0]).rglob("*.py")):
        for dotted in sorted(set(re.findall(r"`(jtl(?:\.[A-Za-z_]\w*)+)", path.read_text()))):
            if not leads_somewhere(dotted):
                wrong.append(f"{path.name}: {dotted}")
    assert not wrong


NO_EXAMPLE = {
    "jtl.Step": "`make_step` returns it",
    "jtl.Sums": "metrics return it",
    "jtl.peft.Bank": "`bank` returns it",
    "jtl.preprocess.text.Tokenizer": "`tokenizer` returns it",
    "jtl.reads.Read": "`reads` and `whole` return it",
    "jtl.train.Step": "`make_step` returns it",
    "jtl.transform.intercept.Call": "interceptors get it",
    "jtl.weights.Coverage": "`convert` returns it",
}
"""Classes that nobody makes by hand, and what gives them; their functions' examples show them."""
