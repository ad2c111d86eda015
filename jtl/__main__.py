"""`python -m jtl` is the command `jtl`."""

import sys

from jtl.cli import main

if __name__ == "__main__":
    sys.exit(main())
