"""Prints the test files that a change can break: those that use a changed file, directly or not.

    python .ci/affected.py [BASE]

BASE is a commit. The default is the merge base with `origin/main`, or with `main` where there is no remote. What is not
committed counts as changed. A file uses the modules that it imports, the modules behind the attributes that it reads
(`jtl.fit`, `data.folder`), and the files whose names stand in its strings. A package read as a whole, as by `getattr`,
counts as all of its modules.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("jtl", "tests", "benchmarks")
ALL = ("pyproject.toml", "tests/conftest.py")
"""Files that every test depends on."""
ALWAYS = ("tests/test_init.py", "tests/test_rooms.py")
"""Tests of the whole tree, which take seconds."""
DOTTED = re.compile(r"\b(?:jtl|benchmarks)(?:\.\w+)+")
FROM = re.compile(r"from (jtl[\w.]*) import (\w+(?:, \w+)*)")


def changed(root: Path, base: str | None) -> set[str]:
    """The paths that differ from the base, committed or not."""

    def git(*command: str) -> list[str]:
        return subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout.split()

    if base is None:
        known = git("for-each-ref", "--format=%(refname:short)", "refs/remotes/origin/main", "refs/heads/main")
        base = git("merge-base", "HEAD", max(known, key=len))[0] if known else "HEAD"
    return {*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")}


def chain(node: ast.expr) -> list[str]:
    """`["a", "b", "c"]` of the expression `a.b.c`, or nothing."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (before := chain(node.value)):
        return [*before, node.attr]
    return []


def is_code(text: str, file: str) -> bool:
    """Whether a string names a module for `import_module`, or is a program that a test runs: messages are neither."""
    return " " not in text.strip() or (file.startswith("tests/") and "import " in text)


def strings(code: ast.Module) -> list[str]:
    """The strings of a program."""
    return [node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


class Tree:
    """The Python files of a repository, and which of them each uses."""

    def __init__(self, root: Path):
        self.root = root
        files = sorted(path for folder in SOURCES for path in (root / folder).rglob("*.py"))
        self.code = {str(path.relative_to(root)): ast.parse(path.read_text()) for path in files}
        self.file: dict[str, str] = {}  # of a dotted name
        for name in self.code:
            parts = Path(name).with_suffix("").parts
            self.file[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = name
            if parts[:2] == ("tests", "support"):
                self.file[parts[-1]] = name  # its folder is on the path of the tests
        self.bound = {name: self._bound(code) for name, code in self.code.items()}

    def _bound(self, code: ast.Module) -> dict[str, str]:
        """What each imported name stands for, as a dotted name."""
        found: dict[str, str] = {}
        for node in ast.walk(code):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.split(".")[0]
                    found[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        return found

    def files(self, dotted: str) -> set[str]:
        """The files behind a dotted name: the packages on the way, and the module that defines the name."""
        parts = dotted.split(".")
        if parts[0] not in self.file:
            return set()
        here, found = parts[0], {self.file[parts[0]]}
        for i, part in enumerate(parts[1:], 1):
            if not self.file[here].endswith("__init__.py"):
                return found  # an attribute of a module
            module = f"{here}.{part}"
            exported = self.bound[self.file[here]].get(part, module)
            if not f"{exported}.".startswith(f"{module}."):
                found |= self.files(".".join([exported, *parts[i + 1 :]]))
            elif module not in self.file:  # it is gone, or made when the package is imported
                return found | {module.replace(".", "/") + ".py"} | self.below(here)
            if module not in self.file:
                return found
            here = module
            found.add(self.file[here])
        return found

    def below(self, package: str) -> set[str]:
        """All files of a package."""
        return {file for name, file in self.file.items() if name.startswith(package + ".")}

    def uses(self, name: str) -> set[str]:
        """The files that a file uses directly."""
        code, bound = self.code[name], self.bound[name]
        found: set[str] = set()
        for page in self.pages(code) if name.startswith("tests/") else ():
            found |= self._spoken(page.read_text())  # a test may run the page's examples
        inner = {id(node.value) for node in ast.walk(code) if isinstance(node, ast.Attribute)}
        local = {node.arg for node in ast.walk(code) if isinstance(node, ast.arg)}
        local |= {node.id for node in ast.walk(code) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        for node in ast.walk(code):
            if isinstance(node, ast.Import):
                found |= {file for alias in node.names for file in self.files(alias.name)}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {file for alias in node.names for file in self.files(f"{node.module}.{alias.name}")}
            elif isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner and (parts := chain(node)):
                if (target := bound.get(parts[0])) and not (isinstance(node, ast.Name) and node.id in local):
                    found |= self._read(".".join([target, *parts[1:]]))
            elif isinstance(node, ast.List | ast.Tuple):
                words = [getattr(item, "value", None) for item in node.elts]
                if words[:-1].count("-m") and (module := words[words.index("-m") + 1]) in self.file:
                    found |= self.files(f"{module}.__main__")  # a command of a process
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_code(node.value, name):
                found |= self._spoken(node.value)
        return found

    def _read(self, dotted: str) -> set[str]:
        """The files of a name that is read; a package as a whole is all its files."""
        found = self.files(dotted)
        whole = dotted in self.file and self.file[dotted].endswith("__init__.py")
        return found | self.below(dotted) if whole else found

    def _spoken(self, text: str) -> set[str]:
        """The files of the names in a text."""
        found: set[str] = set()
        for dotted in DOTTED.findall(text):
            if ".".join(dotted.split(".")[:2]) in self.file or dotted.split(".")[1] in self.bound["jtl/__init__.py"]:
                found |= self._read(dotted)  # and no file as `jtl.json`
        for package, names in FROM.findall(text):
            found |= {file for word in names.split(", ") for file in self._read(f"{package}.{word}")}
        return found

    def pages(self, code: ast.Module) -> list[Path]:
        """The Markdown files that a file names; "*.md" names all, those of docs too."""
        ends = {text.rsplit("/", 1)[-1] for text in strings(code) if text.endswith(".md")}
        found = sorted([*self.root.glob("*.md"), *(self.root / "docs").rglob("*.md")])
        return [path for path in found if path.name in ends or "*.md" in ends]

    def named(self, path: str) -> set[str]:
        """The files outside the library with the last part of a path in a string."""
        ends = {Path(path).name} | ({"*.md"} if path.endswith(".md") else set())
        tests = {name: code for name, code in self.code.items() if not name.startswith("jtl/")}
        return {name for name, code in tests.items() if any(end in text for end in ends for text in strings(code))}


def affected(root: Path, paths: set[str]) -> list[str]:
    """The test files that use one of the paths, directly or not."""
    if paths & set(ALL):
        return ["tests"]
    tree = Tree(root)
    # A package passes on what it exports to those who read it, and nothing else.
    uses = {name: set() if name.endswith("__init__.py") else tree.uses(name) for name in tree.code}
    reached = set(paths)
    for path in paths:
        if not path.endswith(".py"):
            reached |= tree.named(path)
    while more := {name for name, used in uses.items() if used & reached} - reached:
        reached |= more
    tests = {name for name in reached & set(tree.code) if re.match(r"tests/(.*/)?test_\w+\.py", name)}
    return sorted(tests | set(ALWAYS))


def main() -> None:
    """Prints the files, or `tests` where all may break."""
    print("\n".join(affected(ROOT, changed(ROOT, sys.argv[1] if len(sys.argv) > 1 else None))))


if __name__ == "__main__":
    main()
