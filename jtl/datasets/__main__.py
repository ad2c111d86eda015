"""Fetches public data sets into the folder that recipes look in.

python -m jtl.datasets                        # what there is
python -m jtl.datasets trec usps --to ~/data  # these two; JTL_DATA is the default folder
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from zipfile import BadZipFile

from jtl.datasets.catalogue import CATALOGUE
from jtl.datasets.fetch import fetch


def main(given: list[str] | None = None) -> int:
    """Lists the data sets, or fetches the named ones; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jtl.datasets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets; none: list what there is")
    parser.add_argument("--to", default=os.environ.get("JTL_DATA"), help="the folder; by default JTL_DATA")
    asked = parser.parse_args(given)
    unknown = [name for name in asked.names if name not in CATALOGUE]
    if unknown:
        parser.error(f"there is no data set {unknown[0]!r}; there are {', '.join(CATALOGUE)}")
    if not asked.names:
        for name, entry in CATALOGUE.items():
            print(f"{name:14} {entry.holds} ({entry.terms})")
        return 0
    if not asked.to:
        parser.error("no folder to write to: give --to, or set JTL_DATA")
    folder = Path(asked.to).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in asked.names:
        entry = CATALOGUE[name]
        try:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                entry.write([fetch(file, Path(place)) for file in entry.files], folder)
        except (OSError, ValueError, BadZipFile) as error:
            failed += 1
            print(f"{name}: {error}; fetch it on another machine and see docs/data.md for its place", file=sys.stderr)
        else:
            print(f"{name}: {entry.holds}, in {folder}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
