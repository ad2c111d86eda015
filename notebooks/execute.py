"""Runs every notebook of this folder from an empty state: `python notebooks/execute.py`, or with names of some."""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def main(names: list[str]) -> None:
    """Stops at the first cell that fails, with its traceback; nothing is written back."""
    found = [Path(name) for name in names] or sorted(HERE.glob("*.ipynb"))
    for path in found:
        began = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}
        )
        client.execute()
        print(f"{path.name}: {len(notebook.cells)} cells in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
