"""Somebody's repository, and calls of the three targets' scripts on it without make."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import install
import uninstall
import update
from common import console
from copying import installation
from copying.transaction import files_below
from tests.conftest import ROOT

Action = Callable[[Path], object]
"""What is done to a repository."""
FILES = {
    "Makefile": "SHELL := /bin/bash\n\nall: ; @echo all\n",
    ".neuro/live.yaml": "kind: live\n\njobs:\n  train:\n    image: x\n    bash: echo\n",
    ".gitignore": "*.pyc\n",
    "src/train.py": "pass\n",
}


def snapshot(root: Path) -> dict[str, tuple[int, bytes | str]]:
    """Return mode and bytes of every file of a repository, git's and our own data folder aside."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if name.parts[0] in (".git", ".mlflow"):
            continue
        mode = path.lstat().st_mode
        if path.is_symlink():
            found[str(name)] = (mode, str(path.readlink()))
        else:
            found[str(name)] = (mode, path.read_bytes() if path.is_file() else "")
    return found


def git(root: Path, *words: str) -> str:
    """Run git as somebody who has told it their name."""
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    command += ["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *words]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path) -> None:
    """Commit everything in a folder, made a repository if it is none."""
    if not (root / ".git").exists():
        git(root, "init", "--quiet")
    git(root, "add", "--all", "--force")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "x")


def lay(root: Path, files: dict[str, str]) -> None:
    """Write files, their line endings as they are."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())


def change(file: str, old: str, new: str) -> Action:
    """Return what replaces text in a file."""

    def apply(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new))

    return apply


def toolkit_in(folder: Path) -> Path:
    """Copy what is installed of this toolkit into a folder."""
    for name in [*installation.BESIDE, *(f"scripts/{n}" for n in files_below(ROOT / "scripts"))]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The next version of the toolkit: a file changed, one new, one dropped; a git repository with tags."""
    folder = toolkit_in(tmp_path / "newer")
    commit(folder)
    git(folder, "tag", "v1")
    (folder / "scripts/VERSION").write_text("99.1\n")
    (folder / "scripts/open.py").write_text("# changed\n")
    (folder / "scripts/new_thing.py").write_text("# new\n")
    (folder / "scripts/flow/drift.py").unlink()
    commit(folder)
    git(folder, "tag", "v99.1")
    return folder


class Host:
    """A repository of somebody's."""

    def __init__(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.root, self._patch, self._capsys = root, monkeypatch, capsys
        self.folder = root / "scripts/mlflow"

    def run(self, main: Callable[[], None], code: int = 0, **words: str) -> tuple[str, str]:
        """Run a target's function as its script does, with words of the command line; return both outputs."""
        with self._patch.context() as patch:
            for name, value in words.items():
                patch.setenv(name, value)
            if main is not install.main:
                patch.chdir(self.root)
                for module in (installation, install):
                    patch.setattr(module, "TOOLKIT_DIR", Path(words.get("DIR", "scripts/mlflow")))
            with pytest.raises(SystemExit) as ended:
                console.run(main)
        out, err = self._capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        return out, err

    def install(self, code: int = 0, **words: str) -> tuple[str, str]:
        return self.run(install.main, code, **{"INTO": str(self.root), **words})

    def update(self, code: int = 0, **words: str) -> tuple[str, str]:
        return self.run(update.main, code, **words)

    def uninstall(self, code: int = 0, **words: str) -> tuple[str, str]:
        return self.run(uninstall.main, code, **words)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Host:
    """A small repository in which everything is committed."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(ROOT)
    root = tmp_path / "their_project"
    lay(root, FILES)
    commit(root)
    return Host(root, monkeypatch, capsys)
