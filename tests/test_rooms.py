"""The rooms of scripts/: each imports only what it may, and no name hides a module of Python."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = ROOT / "scripts"
MAY_IMPORT: dict[str, set[str]] = {
    "common": set(),
    "settings": {"common"},
    "in_job": set(),
    "local_platform": set(),
    "flow": {"settings", "common", "local_platform.client"},
    "copying": {"settings", "common"},
    "": {"copying", "flow", "settings", "common", "local_platform.client"},
}
"""What a room may import beside itself; "" is the top of scripts/, where each target has its file."""


def room_of(name: str) -> str:
    return name.partition(".")[0] if (SCRIPTS / name.partition(".")[0]).is_dir() else ""


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of ours that a file imports, as `room.module`, or a target's name."""
    package = path.relative_to(SCRIPTS).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*(package if node.level else ()), *filter(None, [node.module])])
            whole = (SCRIPTS / base.replace(".", "/")).is_dir()
            names = [f"{base}.{alias.name}" if whole else base for alias in node.names]
        else:
            continue
        ours = (name for name in names if (SCRIPTS / name.partition(".")[0]).is_dir())
        yield from ours
        yield from (name for name in names if (SCRIPTS / f"{name}.py").is_file())


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room: str) -> None:
    files = sorted((SCRIPTS / room).glob("**/*.py" if room else "*.py"))
    assert files
    for path in files:
        for name in imported(path):
            fine = room_of(name) == room or {name, room_of(name)} & MAY_IMPORT[room]
            assert fine, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("folder", "more"), [("serving", {"words", "location", "queries"}), ("deployment", {"words", "waiting"})]
)
def test_a_room_in_the_job_knows_nothing_of_the_rest_of_it(folder: str, more: set[str]) -> None:
    for path in sorted((SCRIPTS / "in_job" / folder).glob("*.py")):
        for name in imported(path):
            assert name.split(".")[1] in {folder, *more}, f"{path.name} imports {name}"


def test_every_room_says_what_belongs_there() -> None:
    rooms = {path.name for path in SCRIPTS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == MAY_IMPORT.keys() - {""}
    for room in rooms:
        text = (SCRIPTS / room / "__init__.py").read_text("utf-8")
        said = (ast.get_docstring(ast.parse(text)) or "").splitlines()
        assert len(said) > 1, f"{room}: what belongs there, and what may be imported?"
        for name in MAY_IMPORT[room]:
            assert f"`{name}`" in said[-1]


def test_no_file_hides_a_module_of_python() -> None:
    names = {path.stem for path in SCRIPTS.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not names & sys.stdlib_module_names
