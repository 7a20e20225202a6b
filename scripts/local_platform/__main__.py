"""`python start.py local_platform/__main__.py STATE` serves the state folder STATE; client.py starts it."""

import sys
from pathlib import Path

from local_platform.server import run

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python start.py local_platform/__main__.py STATE")
    sys.exit(run(Path(sys.argv[1]).absolute()))
