"""Runs the target's script that bootstrap.sh names; ^C ends it in one line while it still imports, too."""

import _signal as signal  # type: ignore[import-not-found]  # `signal` itself imports more, with no handler yet
import os
import sys


def end(*_: object) -> None:
    """End at once: nothing has been done yet."""
    os.write(2, b"mlflow: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, end)  # until console.run
    from runpy import run_path

    del sys.argv[0]
    run_path(sys.argv[0], run_name="__main__")
