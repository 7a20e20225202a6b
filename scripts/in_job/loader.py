"""Imports the other modules from the environment, where they travel into the job as text.

`flow/program.py` says how the text is made, and has the command that runs this one.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import re
import sys
import traceback

VARIABLES = b"MLFLOW_ACTION_CODE"  # and whatever begins so
SIGNS = {ord(sign): plain for sign, plain in zip("\u27e6\u27e7\u00a7\u007e\u00b6", "[]$ \n")}


class Texts(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Finds and loads the modules of a text, in which a line `#: in_job/NAME.py` begins each.

    NAME may be in folders, which are packages with nothing of their own.
    """

    def __init__(self, text: str) -> None:
        pieces = re.split(r"(?m)^#: (in_job/[\w/]+)\.py\n", text)[1:]
        self.texts: dict[str, str] = dict(zip((path.replace("/", ".") for path in pieces[::2]), pieces[1::2]))
        self.packages = {name[:end] for name in self.texts for end, sign in enumerate(name) if sign == "."}

    def find_spec(
        self, fullname: str, _path: object, _target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find `in_job`, its folders, and the modules in them."""
        if fullname not in self.texts and fullname not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=fullname in self.packages)

    def get_filename(self, fullname: str) -> str:
        """Return what a traceback names."""
        return fullname.replace(".", "/") + ".py"

    def get_source(self, fullname: str) -> str:
        """Return a module's text, for tracebacks too."""
        return self.texts.get(fullname, "")


def run(name: str) -> None:
    """Import a module, with no trace of all the text left in the environment, and exit as its `main` says."""
    variables = sorted(variable for variable in os.environb if variable.startswith(VARIABLES))
    text = "".join(os.environb.pop(variable).decode() for variable in variables)
    sys.meta_path.insert(0, Texts(text.translate(SIGNS)))
    sys.excepthook = lambda *error: traceback.print_exception(*error)  # Python's own reads files only
    sys.exit(importlib.import_module(f"in_job.{name}").main())
