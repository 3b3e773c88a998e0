"""``python -m minijac``: the command line."""

import sys

from minijac.demo.command import main

if __name__ == "__main__":
    sys.exit(main())
