"""Runs every notebook of this folder from an empty state: `python notebooks/execute.py`, or with names of some."""

import asyncio
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


async def execute(path: Path) -> None:
    """Stops at the first cell that fails, with its traceback; nothing is written back."""
    began = time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}})
    await client.async_execute()
    print(f"{path.name}: {len(notebook.cells)} cells in {time.monotonic() - began:.0f} s", flush=True)


async def main(names: list[str]) -> None:
    """All at once: each waits for compilers that use one core."""
    found = [Path(name) for name in names] or sorted(HERE.glob("*.ipynb"))
    async with asyncio.TaskGroup() as group:
        for path in found:
            group.create_task(execute(path))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
