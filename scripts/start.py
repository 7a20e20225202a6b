"""Runs the target's script that bootstrap.sh names; ^C ends it in one line while it still imports, too.

So does what mlflow-update has left for the user to merge: a file edited for another version may not fit.
"""

import _signal as signal  # type: ignore[import-not-found]  # `signal` itself imports more, with no handler yet
import os
import sys
from _frozen_importlib_external import FileFinder, SourceFileLoader  # `importlib` itself imports more, too


class Compiled(SourceFileLoader):
    """Keeps what it compiles in a folder apart: the modules' own is in somebody's repository."""

    folder = ""

    def get_data(self, path: str) -> bytes:
        """Read a module's text, or what was compiled of it."""
        return super().get_data(f"{self.folder}{path}" if path.endswith(".pyc") else path)

    def set_data(self, path: str, data: bytes, **options: int) -> None:  # type: ignore[override]
        """Keep what was compiled."""
        super().set_data(f"{self.folder}{path}", data, **options)


def keep_compiled(room: str, folder: str) -> None:
    """Keep what is compiled of the modules below the folder `room` in `folder`.

    `-X pycache_prefix` would have the standard library and all packages compiled anew in each workspace.
    """

    look = FileFinder.path_hook((Compiled, [".py"]))

    def find(path: str) -> FileFinder:
        if path != room and not path.startswith(f"{room}{os.sep}"):
            raise ImportError
        return look(path)  # type: ignore[return-value]

    Compiled.folder = folder
    sys.path_hooks.insert(0, find)
    sys.path_importer_cache.pop(room, None)


def end(*_: object) -> None:
    """End at once: nothing has been done yet."""
    os.write(2, b"mlflow: interrupted\n")
    os._exit(130)


def unmerged() -> list[str]:
    """Return the files of the toolkit that were edited here, and have a newer one beside."""
    from pathlib import Path

    return [str(path.with_suffix("")) for path in sorted(Path(sys.argv[0]).parent.rglob("*.py.new"))]


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, end)  # until console.run
    if "compiled" in sys._xoptions:  # as bootstrap.sh has it
        keep_compiled(sys.path[0], str(sys._xoptions["compiled"]))
    from runpy import run_path

    del sys.argv[0]
    try:
        run_path(sys.argv[0], run_name="__main__")
    except Exception as error:  # console.run ends by SystemExit: this is from before, an import
        if not unmerged():
            raise
        for path in unmerged():
            what = f"edited here, and may not fit the files of this version ({error})"
            print(f"mlflow: error: {path}: {what}; merge {path}.new into it", file=sys.stderr)
        sys.exit(1)
