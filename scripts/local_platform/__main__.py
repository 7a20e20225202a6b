"""`python -m local_platform STATE` serves the state folder STATE; client.py starts it."""

import sys
from pathlib import Path

from .server import run

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m local_platform STATE")
    sys.exit(run(Path(sys.argv[1]).absolute()))
