"""How a program travels into a job, and what a traceback there shows."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flow import program
from settings.action import PROGRAM

SCRIPTS = Path(program.__file__).parents[1]
FAILS = """
from in_job.helper import half


def main():
    print(sorted(name for name in __import__("os").environ if "CODE" in name))
    return half([1, 2], "$$ $(x) [a]")
"""
HELPER = """
def half(numbers, text):
    print(text)
    return numbers[5]  # ⌘
"""


@pytest.mark.parametrize("name", ["serve", "store_job"])
def test_a_program_fits_and_has_all_that_it_imports(name: str) -> None:
    found = program.variables(name)
    for text in found.values():
        assert len(text.encode()) < 128 * 1024 - len(PROGRAM) - 10
        assert not set(text[len(program.HEAD) : -1]) & set("[]$ \n")
    assert {*program.modules("serve"), *program.modules(name)} >= {name, "words"}
    for module in {*program.modules(name), *program.modules("serve", late=False)}:
        assert sum(f"#:~in_job/{module}.py" in text for text in found.values()) == 1
    # What is imported late would be missed: there is no other way in than the statement.
    for path in (SCRIPTS / "in_job").glob("*.py"):
        assert 'import_module("in_job' not in path.read_text("utf-8")


def test_the_program_needs_nothing_but_python() -> None:
    standard = set(sys.stdlib_module_names) | {"in_job"}
    for path in (SCRIPTS / "in_job").glob("*.py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= standard, path


@pytest.mark.parametrize("text", ["a = '~'", "a = '§'", "a = '${{ b }}'", "a = '$[[ b ]]'"])
def test_what_cannot_travel_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.py").write_text(text, "utf-8")
    monkeypatch.setattr(program, "ROOM", tmp_path)
    with pytest.raises(ValueError, match=r"odd.py holds .* which an action cannot carry"):
        program.text_of(("odd",))


def test_a_program_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"120,001 bytes .* carry a part in another one"):
        program.packed("x" * 120_001)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_a_traceback_names_file_and_line_and_shows_the_line(locale: str) -> None:
    loader = (SCRIPTS / "in_job/loader.py").read_text("utf-8")
    text = f"#: in_job/fails.py\n{FAILS}#: in_job/loader.py\n{loader}"
    env = {"PATH": os.environ["PATH"], "LC_ALL": locale, PROGRAM: program.packed(text)}
    env[f"{PROGRAM}_MORE"] = program.packed(f"#: in_job/helper.py\n{HELPER}")
    command = [sys.executable, "-uc", program.command("fails")]
    done = subprocess.run(command, env=env, check=False, capture_output=True, encoding="utf-8")
    assert done.stdout == "[]\n$$ $(x) [a]\n"
    assert done.returncode == 1
    assert 'File "in_job/fails.py", line 7, in main\n    return half([1, 2], "$$ $(x) [a]")' in done.stderr
    assert 'File "in_job/helper.py", line 4, in half\n    return numbers[5]  # ' in done.stderr
    assert done.stderr.rstrip().endswith("IndexError: list index out of range")
