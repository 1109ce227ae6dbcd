"""``python -m bbfuse.serve``."""

import sys

from bbfuse.deploy.serving import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
