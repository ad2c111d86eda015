"""Damaged and malicious files, and checkpoint folders: read or refused, in time, in bounded memory, without effect.

The work is in benchmarks/fuzz_weights.py, which also runs more of it; it limits its own memory and watches what it
does, so it runs in a process of its own.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_weights.py"


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.first
def test_damaged_and_malicious_files_are_read_or_refused():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "2000", "1"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    counts = re.search(r"(\d+) cases: (\d+) refused, (\d+) read", done.stdout)
    assert counts is not None, done.stdout
    cases, refused, read = map(int, counts.groups())
    assert cases >= 2000
    assert refused > 1500  # else the damage would not be damage
    assert read > 150  # bits flipped among the numbers do no harm, nor does a config without a default
