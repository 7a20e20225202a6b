"""Words on the screen, one redacted line each, and errors that say what to do."""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from typing import TextIO

PROGRESS_EVERY = 5.0  # seconds
REMEDIES = {  # what a file system or SQLite says, and what to do
    "read-?only|denied": "mount the volume writable (:rw)",
    "no space|is full|quota": "free space on the volume",
    "locked": "stop whatever else holds the database",
    "malformed|not a database|corrupt": "the database is corrupt, restore a backup",
}


class Problem(Exception):
    """What the user has to put right, in one line."""


def redact(text: str) -> str:
    """Return text as one line, without the passwords of the URIs in it."""
    text = re.sub(r"(://[^:/@\s]*:).*@", r"\1***@", text, flags=re.S)  # an @ or blank may be in the password
    text = re.sub(r"(https?://)[^:/@\s]+@", r"\1***@", text)  # a token
    text = re.sub(r"([?&][^=&\s]*(?:pass|pwd|token)[^=&\s]*=)[^&\s]+", r"\1***", text)
    return " ".join(text.split())[:1000]


def say(text: str, stream: TextIO | None = None) -> None:
    """Print one redacted line; on stderr unless `stream` is given."""
    print("mlflow-server:", redact(text), file=stream or sys.stderr, flush=True)


def explain(error: Exception) -> str:
    """Return an error in one line, with the way out where it is one of the file system or SQLite."""
    if isinstance(error, Problem):
        return str(error)
    said = getattr(error, "orig", None)  # of SQLAlchemy, whose own text has statement and rows in it
    text = str(error) if isinstance(error, (OSError, sqlite3.Error)) else str(said or repr(error))
    remedies = REMEDIES
    if not isinstance(said or error, (OSError, sqlite3.Error)) and "sqlite3." not in text:
        remedies = {"denied": "grant that to the user of backend_store_uri"} if said else {}
    return "; ".join([text, *(remedy for sign, remedy in remedies.items() if re.search(sign, text, re.I))])


class Progress:
    """Says how far a long piece of work has come, now and then."""

    def __init__(self, what: str) -> None:
        self.what, self.done, self.next = what, 0, time.monotonic() + PROGRESS_EVERY

    def __call__(self, more: int) -> None:
        """Count `more` units as done."""
        self.done += more
        if time.monotonic() > self.next:
            say(f"{self.what}: {self.done:,}")
            self.next = time.monotonic() + PROGRESS_EVERY
