"""`python -m bench`, from the repository root."""

import sys

from fastrnn.bench.cli import main

# The guard matters: the kernel report's worker processes import this file again.
if __name__ == "__main__":
    sys.exit(main())
