"""Prints the test files that a change can break: those that import a changed file, directly or not.

    python .ci/affected.py [BASE]

BASE is a commit; the default is the merge base with `origin/main`, or with `main` where there is no remote. What is not
committed counts as changed. A change outside `jtl/`, `tests/` and `benchmarks/` (as of pyproject.toml) can break all.
"""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("jtl", "tests", "benchmarks")
HARMLESS = (".md", ".cff", ".ipynb", ".json", ".yaml")


def changed(base: str | None) -> set[str]:
    """The paths that differ from the base, committed or not."""
    base = base or _merge_base()
    committed = _git("diff", "--name-only", base)
    untracked = _git("ls-files", "--others", "--exclude-standard")
    return set(committed) | set(untracked)


def _merge_base() -> str:
    for branch in ("origin/main", "main"):
        found = subprocess.run(["git", "merge-base", "HEAD", branch], cwd=ROOT, capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    return "HEAD"


def _git(*command: str) -> list[str]:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def imports(path: Path) -> set[str]:
    """The modules that a file imports, as dotted names, and names imported from packages."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def affected(paths: set[str]) -> list[str]:
    """The test files whose imports reach one of the paths."""
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    names: dict[str, str] = {}
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        names[dotted] = str(path.relative_to(ROOT))
        if parts[:2] == ("tests", "support"):
            names[parts[-1]] = names[dotted]  # on the path of the tests
    uses = {str(p.relative_to(ROOT)): {names[n] for n in imports(p) if n in names} for p in files}
    public = uses["jtl/__init__.py"]  # `import jtl` reaches all that the namespace names lazily
    uses = {file: used | public if "jtl/__init__.py" in used else used for file, used in uses.items()}
    reached = {path for path in paths if path in uses}
    while True:
        more = {file for file, used in uses.items() if used & reached} - reached
        # A package passes nothing on: what a file imports by it is named beside it.
        more = {file for file in more if not file.endswith("__init__.py")}
        if not more:
            break
        reached |= more
    tests = {file for file in reached if file.startswith("tests/") and Path(file).name.startswith("test_")}
    return sorted(tests | {"tests/test_rooms.py", "tests/test_init.py"})


def main() -> None:
    """Prints the files, or `tests` where all may break."""
    paths = changed(sys.argv[1] if len(sys.argv) > 1 else None)
    wide = [p for p in paths if not p.startswith(SOURCES) and not p.endswith(HARMLESS)]
    print("tests" if wide or "tests/conftest.py" in paths else "\n".join(affected(paths)))


if __name__ == "__main__":
    main()
