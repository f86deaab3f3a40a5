"""``python -m kvs`` is ``kvs``."""

import sys

from kvs.cli import main

if __name__ == "__main__":
    sys.exit(main())
