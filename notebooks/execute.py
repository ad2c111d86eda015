"""Runs every notebook of this folder from an empty state: `python notebooks/execute.py [--write] [NAME ...]`."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def main(arguments: list[str]) -> None:
    """Raises the first cell that fails, with its traceback; `--write` stores outputs and pictures in the files."""
    write = "--write" in arguments
    names = [name for name in arguments if name != "--write"]
    found = [Path(name) for name in names] or sorted(HERE.glob("*.ipynb"))
    # Two at once, because importing and compiling fill one core.
    with ThreadPoolExecutor(2) as pool:
        for told in pool.map(lambda path: executed(path, write), found):
            print(told, flush=True)


def executed(path: Path, write: bool) -> str:
    """Runs one notebook and returns a line about it."""
    began = time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}})
    client.execute()
    if write:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # when each cell ran says nothing to a reader
        nbformat.write(notebook, path)
    return f"{path.name}: {len(notebook.cells)} cells in {time.monotonic() - began:.0f} s"


if __name__ == "__main__":
    main(sys.argv[1:])
