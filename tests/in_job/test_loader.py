"""How a program travels into a job, and what a traceback there shows."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow import program
from settings.action import PROGRAM

SCRIPTS = Path(program.__file__).parents[1]
FAILS = """
from in_job.folder.helper import half


def main():
    print(sorted(name for name in __import__("os").environ if "CODE" in name))
    return half([1, 2], "$$ $(x) [a]")
"""
HELPER = """
from in_job.folder import index


def half(numbers, text):
    print(text)
    return numbers[index.NUMBER]  # ⌘
"""
INDEX = "NUMBER = 5\n"


@pytest.mark.parametrize("name", ["serve", "store_job"])
def test_a_program_fits_and_has_all_that_it_imports(name: str) -> None:
    found = program.variables(name)
    for text in found.values():
        assert len(text.encode()) < 128 * 1024 - len(PROGRAM) - 10
        assert not set(text[len(program.HEAD) : -1]) & set("[]$ \n")
    assert set(program.modules(name)) > {name, "words"}
    for module in (*program.modules(name), "loader"):
        header = f"#:~in_job/{module.replace('.', '/')}.py"
        assert sum(header in text for text in found.values()) == 1
    carried = sum(len(re.findall(r"#:~in_job/[\w/]+\.py¶", text)) for text in found.values())
    assert carried == len(program.modules(name)) + 1, "nothing but what it imports"
    # What is imported late would be missed: there is no other way in than the statement.
    for path in (SCRIPTS / "in_job").glob("**/*.py"):
        assert 'import_module("in_job' not in path.read_text("utf-8")


def test_the_program_needs_nothing_but_python() -> None:
    standard = set(sys.stdlib_module_names) | {"in_job"}
    for path in (SCRIPTS / "in_job").glob("**/*.py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= standard, path


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Programs of a test, in the place of those in scripts/in_job."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "loader.py").write_bytes((SCRIPTS / "in_job/loader.py").read_bytes())
    monkeypatch.setattr(program, "ROOM", tmp_path)
    yield tmp_path
    program.modules.cache_clear()
    program.texts.cache_clear()


@pytest.mark.parametrize("text", ["a = '~'", "a = '§'", "a = '${{ b }}'", "a = '$[[ b ]]'"])
def test_what_cannot_travel_is_refused(text: str, room: Path) -> None:
    (room / "folder/odd.py").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"folder/odd.py holds .* which an action cannot carry"):
        program.text_of(("folder.odd",))


def test_a_program_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"120,024 bytes .* carry a part in another one"):
        program.packed("x" * 120_001)


def test_what_does_not_fit_into_the_first_variable_is_in_the_second(room: Path) -> None:
    (room / "start.py").write_text(
        "from in_job.folder import a, b\n\n\ndef f():\n    from in_job import late\n"
    )
    for name in ("folder/a", "folder/b", "late"):
        (room / f"{name}.py").write_text(f"# {name}\n" + "#" * 70_000 * ("folder" in name) + "\n")
    first, more = program.texts("start")
    assert [line for line in first.splitlines() if line.startswith("#: ")] == [
        *("#: in_job/folder/a.py", "#: in_job/start.py", "#: in_job/loader.py")
    ]
    assert [line for line in more.splitlines() if line.startswith("#: ")] == [
        *("#: in_job/folder/b.py", "#: in_job/late.py")
    ]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_a_traceback_names_file_and_line_and_shows_the_line(locale: str, room: Path) -> None:
    for name, text in {"fails": FAILS, "folder/helper": HELPER, "folder/index": INDEX}.items():
        (room / f"{name}.py").write_text(text, "utf-8")
    env = {"PATH": os.environ["PATH"], "LC_ALL": locale, **program.variables("fails")}
    command = [sys.executable, "-uc", program.command("fails")]
    done = subprocess.run(command, env=env, check=False, capture_output=True, encoding="utf-8")
    assert done.stdout == "[]\n$$ $(x) [a]\n"
    assert done.returncode == 1
    assert 'File "in_job/fails.py", line 7, in main\n    return half([1, 2], "$$ $(x) [a]")' in done.stderr
    assert (
        'File "in_job/folder/helper.py", line 7, in half\n    return numbers[index.NUMBER]  # ' in done.stderr
    )
    assert done.stderr.rstrip().endswith("IndexError: list index out of range")
