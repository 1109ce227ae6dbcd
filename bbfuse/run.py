"""``python -m bbfuse.run``."""

import sys

from bbfuse.cli.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
