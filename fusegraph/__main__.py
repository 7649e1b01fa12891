"""``python -m fusegraph``: the command line."""

import sys

from fusegraph.cli import main

if __name__ == "__main__":
    sys.exit(main())
