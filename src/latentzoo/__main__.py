"""`python -m latentzoo`: the command line."""

import sys

from latentzoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
