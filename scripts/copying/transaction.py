"""Changing several files of somebody's repository, all or none of them, whatever happens in between.

Everything new is first written beside, in `.mlflow-install/new/N`, with a copy of each file as it was in
`old/N`; then the journal is written; only then is each path changed, by one rename. So a full disk shows
before anything has been changed, and what a killed process has left is undone by the next call of `recover`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common.console import Failure, Problem, say

STAGE = Path(".mlflow-install")
"""Not in `.mlflow`, which may be a symlink to another file system: no rename leads out of that."""
JOURNAL = "journal.json"
MANIFEST = "installed.json"
"""The file by which a toolkit's folder is told from another state of it."""

Tree = dict[str, "bytes | Path"]
"""The files of a folder by relative path: what each holds, or where it is copied from."""


@dataclass(frozen=True)
class Change:
    """What a path of the repository becomes: a file's bytes, a folder's files, or nothing at all."""

    path: Path
    after: bytes | Tree | None


@dataclass(frozen=True)
class _Step:
    """A change as the journal has it; `before` and `after` are fingerprints."""

    path: str
    folder: bool
    before: str
    after: str


def read(path: Path) -> bytes | None:
    """Return a file's bytes, None where there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def digest(data: bytes | None) -> str:
    """Return the sha256 of a file's bytes, an empty string where there is none."""
    return "" if data is None else hashlib.sha256(data).hexdigest()


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, an empty string where there is none; a symlink is like no file."""
    return f"symlink {path.readlink()}" if path.is_symlink() else digest(read(path))


def _fingerprint(path: Path, folder: bool) -> str:
    """Return what tells the states of a path apart; a folder's is that of its manifest."""
    if folder:
        return f"folder {digest(read(path / MANIFEST))}" if path.is_dir() else ""
    return digest(read(path))


def files_below(folder: Path) -> list[str]:
    """Return the relative paths of the files and symlinks below a folder; Python's caches do not count."""
    found = []
    for base, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(base) / name).is_symlink()]
        folders[:] = sorted(set(folders) - {"__pycache__", *links})
        found += [str((Path(base) / name).relative_to(folder)) for name in [*names, *links]]
    return sorted(found)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep a second install, update or uninstall out of the repository while the block runs.

    Raises:
        Failure: another one is at work.
    """
    descriptor = os.open(root, os.O_RDONLY)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with contextlib.suppress(OSError):  # a network file system may have no locks on folders
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fix = "wait for its end, and run the same again"
                what = "another install, update or uninstall is at work here"
                raise Failure(Problem(what, fix, str(root))) from None
        for number in before:  # so that they are cleared up after, like ^C
            signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(descriptor)


def pending(root: Path) -> bool:
    """Tell whether an interrupted call has left its stage."""
    return (root / STAGE).is_dir()


def recover(root: Path) -> None:
    """Undo what an interrupted call has done to the repository, or clear up after one that was done.

    Raises:
        Failure: a file has been edited since, so that its former text cannot be put back over it; or a
            file in the stage is not ours.
    """
    if not pending(root):
        return
    for path in (root / STAGE).iterdir():
        if not re.fullmatch(r"\.gitignore|journal\.(new|json)|new|old|undone-\d+", path.name):
            raise Failure(Problem("not of the toolkit", "move it away", f"{STAGE}/{path.name}"))
    journal = read(root / STAGE / JOURNAL)
    if journal is not None:
        data = json.loads(journal)
        steps = [_Step(**step) for step in data["steps"]]
        if all(_fingerprint(root / step.path, step.folder) == step.after for step in steps):
            say("the interrupted call before had done its work; clearing up after it")
            _remove_empty(root, data["leave"])
        else:
            say("an interrupted call before has left its work half done; undoing it")
            _undo(root, steps)
            _remove_empty(root, data["make"])
    _clear(root)


def apply(root: Path, changes: list[Change], leave: list[str]) -> None:
    """Make all changes, or none.

    Args:
        root: the repository; `recover` has been called for it.
        changes: in this order; one that replaces a folder has to be the last.
        leave: folders to remove at the end where nothing is left in them.

    Raises:
        Failure: the disk is full or a file cannot be written; nothing is changed then.
    """
    steps: list[_Step] = []
    make = missing_folders(root, [change.path for change in changes])
    try:
        try:
            (root / STAGE).mkdir()
            _write(root / STAGE / ".gitignore", b"*\n")
            for number, change in enumerate(changes):
                steps.append(_stage(root, number, change))
            _write(root / STAGE / "journal.new", _journal(steps, make, leave))
            for folder in (root / STAGE, root):
                _sync(folder)
            (root / STAGE / "journal.new").replace(root / STAGE / JOURNAL)
            _sync(root / STAGE)
        except BaseException:
            _clear(root)
            raise
        signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            for name in make:
                (root / name).mkdir(exist_ok=True)
            for number, step in enumerate(steps):
                _take(root, number, step)
        except BaseException:
            _undo(root, steps)
            _remove_empty(root, make)
            _clear(root)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except OSError as error:
        where = error.filename2 or error.filename or root
        fix = "nothing has been changed; mend that and run the same again"
        raise Failure(Problem(error.strerror or str(error), fix, str(where))) from None
    _remove_empty(root, leave)
    _clear(root)  # everything is done: a rest of the stage does no harm, and the next call clears it up


def missing_folders(root: Path, paths: list[Path]) -> list[str]:
    """Return the folders, the highest first, that have to be made for the paths."""
    parents = {str(parent) for path in paths for parent in path.parents}
    return [name for name in sorted(parents) if not (root / name).exists()]


def _journal(steps: list[_Step], make: list[str], leave: list[str]) -> bytes:
    return json.dumps({"steps": [vars(step) for step in steps], "make": make, "leave": leave}).encode()


def _stage(root: Path, number: int, change: Change) -> _Step:
    """Write what a path is to become, and a copy of the file that it is."""
    path, new, old = root / change.path, root / STAGE / f"new/{number}", root / STAGE / f"old/{number}"
    for folder in (new.parent, old.parent):
        folder.mkdir(parents=True, exist_ok=True)
    step = _Step(str(change.path), isinstance(change.after, dict) or path.is_dir(), "", "")
    step = replace(step, before=_fingerprint(path, step.folder))
    if isinstance(change.after, dict):
        for name, content in change.after.items():
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                _write(target, content)
            else:
                shutil.copy2(content, target, follow_symlinks=False)
        for base, _, _ in os.walk(new):
            _sync(Path(base))
    elif change.after is not None:
        _write(new, change.after)
    if step.before and not step.folder:
        _write(old, path.read_bytes())
        for copy in filter(Path.exists, (new, old)):
            shutil.copymode(path, copy)
            with contextlib.suppress(PermissionError):  # root works in a user's repository
                os.chown(copy, path.stat().st_uid, path.stat().st_gid)
    for folder in (new.parent, old.parent):
        _sync(folder)
    return replace(step, after=_fingerprint(new, step.folder))


def _take(root: Path, number: int, step: _Step) -> None:
    """Change one path, by one rename where the file system can do that."""
    path, new, old = root / step.path, root / STAGE / f"new/{number}", root / STAGE / f"old/{number}"
    if _fingerprint(path, step.folder) != step.before:
        raise OSError(0, "changed by somebody else in this moment", str(path))
    if not step.after:
        path.rename(old)
    elif not step.folder or not step.before:
        new.replace(path)
    elif not _exchange(new, path):
        path.rename(old)
        new.rename(path)
    _sync(path.parent)


def _undo(root: Path, steps: list[_Step]) -> None:
    """Put everything back, the last first. Looks only at the disk, so it can be interrupted and repeated.

    Raises:
        Failure: a file is neither as it was nor as it was to become; the others have been put back.
    """
    foreign = []
    for number, step in reversed(list(enumerate(steps))):
        path, new, old = root / step.path, root / STAGE / f"new/{number}", root / STAGE / f"old/{number}"
        now = _fingerprint(path, step.folder)
        if now == step.before:
            continue
        if now not in (step.after, ""):
            fix = f"its text before is {old.relative_to(root)}: put it back or not, then delete {STAGE}"
            foreign.append(Problem("edited since a call was interrupted", fix, step.path))
        elif step.folder:
            if now:
                path.rename(root / STAGE / f"undone-{number}")
            if step.before:  # it has changed places with the new one, or been set aside
                (old if old.exists() else new).rename(path)
        elif step.before:
            old.replace(path)
        else:
            path.unlink()
        _sync(path.parent)
    if foreign:
        raise Failure(*foreign)


def _remove_empty(root: Path, folders: list[str]) -> None:
    for name in sorted(folders, reverse=True):  # the deepest first
        with contextlib.suppress(OSError):
            (root / name).rmdir()


def _clear(root: Path) -> None:
    """Remove the stage, its journal first."""
    stage = root / STAGE
    with contextlib.suppress(OSError):
        if stage.is_dir():
            (stage / JOURNAL).unlink(missing_ok=True)
            _sync(stage)
            shutil.rmtree(stage)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step; False where the system or the file system cannot do that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        return bool(libc.renamex_np(os.fsencode(first), os.fsencode(second), 2) == 0)  # RENAME_SWAP
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        here = -100  # AT_FDCWD
        return bool(libc.renameat2(here, os.fsencode(first), here, os.fsencode(second), 2) == 0)  # _EXCHANGE
    return False
