"""``python -m bbfuse.export``."""

import sys

from bbfuse.deploy.onnx import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
