"""``python -m backends.server``."""

from backends.server.command import main

if __name__ == "__main__":
    main()
