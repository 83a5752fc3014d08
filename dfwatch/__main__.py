"""``python -m dfwatch``."""

import sys

from dfwatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
