"""All or nothing: a fault at every single change of the file system, and what the next call makes of it."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from common.console import Failure
from copying import transaction
from copying.transaction import MANIFEST, Change, Tree, apply, recover
from tests.copying import faults

OLD: dict[str, bytes] = {"Makefile": b"all:\n", ".neuro/live.yaml": b"kind: live\r\n", "src/a.py": b"pass\n"}
FOLDER: Tree = {MANIFEST: b"1", "up.py": b"x" * 100_000, "local_platform/a.py": b""}


def lay(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file and empty folder of a repository, with mode and bytes."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(root))] = (path.stat().st_mode, path.read_bytes())
        elif not any(path.iterdir()):
            found[str(path.relative_to(root))] = (path.stat().st_mode, b"")
    return found


def install(root: Path) -> None:
    changes = [
        Change(Path("scripts/mlflow"), FOLDER),
        Change(Path(".gitignore"), b"/.mlflow/\n"),
        Change(Path(".neuro/live.yaml"), b"kind: live\r\njobs:\r\n"),
        Change(Path("Makefile"), b"all:\ninclude x\n"),
    ]
    apply(root, changes, [])


def update(root: Path) -> None:
    own = root / "scripts/mlflow/own.txt"
    apply(root, [Change(Path("scripts/mlflow"), {MANIFEST: b"2", "up.py": b"y", "own.txt": own})], [])


def uninstall(root: Path) -> None:
    changes = [
        Change(Path(".gitignore"), None),
        Change(Path(".neuro/live.yaml"), OLD[".neuro/live.yaml"]),
        Change(Path("Makefile"), OLD["Makefile"]),
        Change(Path("scripts/mlflow"), None),
    ]
    apply(root, changes, ["scripts"])


def uninstall_but_one(root: Path) -> None:
    own = root / "scripts/mlflow/own.txt"
    changes = [Change(Path("Makefile"), OLD["Makefile"]), Change(Path("scripts/mlflow"), {"own.txt": own})]
    apply(root, changes, [])


def in_a_child(function: Callable[[], None]) -> int:
    """Run a function in a fork; return 0, 1 for a Failure, 9 for SIGKILL, 2 for anything else."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            function()
            code = 0
        except Failure:
            code = 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.mark.parametrize("fault", ["kill", "fail", "full"])
@pytest.mark.parametrize(
    ("operation", "exchange"),
    [
        (install, True),
        (update, True),
        (update, False),
        (uninstall, True),
        (uninstall_but_one, True),
        (uninstall_but_one, False),
    ],
)
def test_a_fault_at_any_change(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: Callable[[Path], None],
    exchange: bool,
    fault: str,
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # takes most of the time
    if not exchange:  # as where the system cannot let two folders change places in one step
        monkeypatch.setattr(transaction, "_exchange", lambda *_: False)
    start = tmp_path / "start"
    lay(start, OLD)
    (start / "Makefile").chmod(0o755)
    if operation is not install:
        install(start)
        lay(start, {"scripts/mlflow/own.txt": b"own"})
    old = tree(start)
    shutil.copytree(start, tmp_path / "new")
    operation(tmp_path / "new")
    new = tree(tmp_path / "new")
    assert old != new
    codes, reached = set(), tmp_path / "reached"
    for number in range(1, 1000):
        root = tmp_path / str(number)
        shutil.copytree(start, root)

        def attempt(root: Path = root, number: int = number) -> None:
            faults.install(fault, number, root, reached)
            operation(root)

        reached.write_text("")
        code = in_a_child(attempt)
        codes.add(code)
        if fault != "kill":
            left = {name: data for name, data in tree(root).items() if not name.startswith(".mlflow-install")}
            assert left == (new if code == 0 else old), number
        recover(root)
        assert tree(root) in (old, new), number
        operation(root) if tree(root) == old else None
        assert tree(root) == new
        shutil.rmtree(root)
        if reached.read_text() != "reached":
            break
    else:
        pytest.fail("it never came through")
    assert codes == {0, 9 if fault == "kill" else 1}


def test_a_recovery_that_is_killed_is_taken_up_again(tmp_path: Path) -> None:
    lay(tmp_path, OLD)
    old = tree(tmp_path)
    shutil.copytree(tmp_path, tmp_path.with_name("half"))
    half = tmp_path.with_name("half")
    number = 0
    while not (half / "scripts/mlflow").exists():
        number += 1

        def killed(number: int = number) -> None:
            faults.install("kill", number, half)
            install(half)

        recover(half)
        assert in_a_child(killed) == 9
    assert transaction.pending(half)
    for number in range(1, 100):

        def recovery(number: int = number) -> None:
            faults.install("kill", number, half)
            recover(half)

        if in_a_child(recovery) == 0:
            break
        assert tree(half)["Makefile"] == old["Makefile"]
    assert number > 3
    assert tree(half) == old
