"""Which tests a change selects, on a repository of a few files whose imports are known by hand."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "affected.py"
ALWAYS = ["tests/test_init.py", "tests/test_rooms.py"]
FILES = {
    "jtl/__init__.py": "from jtl import data as data\nfrom jtl.train import fit as fit",
    "jtl/cli.py": "import importlib\nrecipe = importlib.import_module(f'jtl.recipes.{input()}')",
    "jtl/__main__.py": "from jtl.cli import recipe",
    "jtl/recipes/__init__.py": "",
    "jtl/recipes/digits.py": "from jtl.data import folder",
    "jtl/train/__init__.py": "from jtl.train.loop import fit",
    "jtl/train/loop.py": "from jtl.losses import mean\ndef fit(): raise ValueError('see jtl.data.folder')",
    "jtl/data/__init__.py": "from jtl.data.folder import folder\nfrom jtl.data.pair import pair",
    "jtl/data/folder.py": "def folder(): ...",
    "jtl/data/pair.py": "def pair(): ...",
    "jtl/losses.py": "mean = sum",
    "tests/conftest.py": "",
    "tests/support/made.py": "from jtl.data.pair import pair",
    "tests/test_fit.py": "import jtl\njtl.fit()",
    "tests/test_folder.py": "from jtl import data\ndata.folder()",
    "tests/test_pair.py": "from made import pair",
    "tests/test_whole.py": "from jtl import data\nall(getattr(data, name) for name in data.__dict__)",
    "tests/test_parameter.py": "from jtl import data\ndef train(data): return data\ndata.pair()",
    "tests/test_process.py": "run(['python', '-m', 'jtl'])",
    "tests/test_program.py": "run('from jtl import losses, data')",
    "tests/test_golden.py": "numbers = 'golden.json'",
    "tests/golden.json": "{}",
    "tests/test_readme.py": "page = ROOT / 'README.md'",
    "README.md": "    from jtl import data\n    data.pair()",
    "tests/test_pages.py": "pages = (ROOT / 'docs').rglob('*.md')",
    "docs/how-to/sum.md": "    from jtl import losses",
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("affected", SCRIPT)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "tests"),
    {
        "jtl/losses.py": "fit program pages",
        "jtl/train/loop.py": "fit",
        "jtl/train/__init__.py": "fit",
        "jtl/data/folder.py": "folder whole process program readme pages",
        "jtl/data/pair.py": "pair whole parameter program readme pages",
        "jtl/recipes/digits.py": "process",
        "jtl/cli.py": "process",
        "tests/support/made.py": "pair",
        "tests/test_pair.py": "pair",
        "tests/golden.json": "golden",
        "README.md": "readme pages",
        "docs/how-to/sum.md": "pages",
        "LICENSE": "",
    }.items(),
)
def test_a_change_selects_what_uses_it(script, tree, path, tests):
    assert script.affected(tree, {path}) == sorted([f"tests/test_{name}.py" for name in tests.split()] + ALWAYS)


@pytest.mark.parametrize("path", ["pyproject.toml", "tests/conftest.py"])
def test_what_every_test_depends_on_selects_all(script, tree, path):
    assert script.affected(tree, {path, "README.md"}) == ["tests"]


def test_a_module_that_is_gone_selects_what_imports_it(script, tree):
    (tree / "jtl/losses.py").unlink()
    assert "tests/test_fit.py" in script.affected(tree, {"jtl/losses.py"})


def test_changes_are_those_since_the_branch_left_main(script, tree):
    def git(*command):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *command], cwd=tree, check=True, capture_output=True)

    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "first")
    git("checkout", "-b", "work")
    (tree / "jtl/losses.py").write_text("mean = max")
    git("commit", "-am", "second")
    (tree / "jtl/cli.py").write_text("")
    (tree / "tests/test_new.py").write_text("")
    assert script.changed(tree, None) == {"jtl/losses.py", "jtl/cli.py", "tests/test_new.py"}
    assert script.changed(tree, "HEAD") == {"jtl/cli.py", "tests/test_new.py"}
