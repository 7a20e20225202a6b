"""What is installed in the image, looked up without importing it, which would take seconds."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path


def package(name: str) -> Path:
    """Return the folder of an installed package, else an empty path. Importing MLflow would take seconds."""
    spec = importlib.util.find_spec(name)
    return Path(next(iter(spec.submodule_search_locations or [""]))) if spec else Path()


def mlflow_version() -> str:
    """Return the version of the installed MLflow."""
    text = (package("mlflow") / "version.py").read_text("utf-8")
    found = re.search(r'VERSION = "(.*)"', text)
    return found.group(1) if found else "?"


def has_sqlalchemy_2() -> bool:
    """Tell whether SQLAlchemy is 2.0 or newer: it knows psycopg 3, and pools SQLite's connections."""
    return (package("sqlalchemy") / "dialects/postgresql/psycopg.py").exists()
