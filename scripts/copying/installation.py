"""The toolkit's copy in somebody's repository: files, version, and the record of what was added."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from glob import glob
from pathlib import Path

from common.console import Failure, Problem
from copying import edits
from copying.transaction import MANIFEST, digest_of, files_below, read
from settings.action import ACTION, DEPLOY
from settings.layers import TOOLKIT_DIR
from settings.variables import command_line

VERSION = "VERSION"
BESIDE = (ACTION, DEPLOY, "LICENSE", "mlflow.example.yaml", "mlflow.schema.json")
"""What lies beside scripts/ in the toolkit, and in its folder in another repository."""

MAKEFILES = ("GNUmakefile", "makefile", "Makefile")
"""In the order in which make looks for them."""
HALF_DONE = "an interrupted call has left its work half done; without MLFLOW_DRY_RUN it is undone first"


@dataclass(frozen=True)
class Edit:
    """What was added to a file: `pieces`, word for word; `created` is what it held beside, if it is ours."""

    file: str
    pieces: list[str]
    created: str | None = None
    replaced: list[tuple[str, str]] = field(default_factory=list)
    """The lines of a job that was taken over: each as it is now, and as it was."""


@dataclass(frozen=True)
class Installed:
    """The manifest: which files came with which version, and everything that was added outside the folder."""

    version: str
    origin: str
    """Where git fetches other versions from; empty where that is not known."""
    files: dict[str, str]
    """The sha256 of each file as it was installed, by its path in the folder."""
    edits: list[Edit] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Folders that were made for the files."""

    def text(self) -> bytes:
        """Return the manifest as it is written."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()


def installed(folder: Path) -> Installed | None:
    """Return the manifest of a toolkit's folder, None where it has none.

    Raises:
        Failure: it has been damaged.
    """
    data = read(folder / MANIFEST)
    if data is None:
        return None
    try:
        found = json.loads(data)
        return Installed(**{**found, "edits": [Edit(**edit) for edit in found["edits"]]})
    except (ValueError, TypeError, KeyError):
        fix = "restore it with git: without it nobody knows what was installed"
        raise Failure(Problem("not a manifest", fix, str(folder / MANIFEST))) from None


def version_of(folder: Path) -> str:
    """Return the version of the toolkit whose scripts are in a folder."""
    return (read(folder / VERSION) or b"unknown").decode().strip()


def as_numbers(version: str) -> list[int]:
    """Return a version as what versions are compared by."""
    return [int(number) for number in re.findall(r"\d+", version)]


def toolkit_files(toolkit: Path, folder: Path) -> dict[str, bytes]:
    """Return the files of a clone of the toolkit as they belong into `folder` of another repository.

    Raises:
        Failure: it is not the toolkit, or something is missing in it.
    """
    scripts = toolkit / "scripts"
    missing = [
        name
        for name in (*BESIDE, "scripts/mlflow.mk", f"scripts/{VERSION}")
        if not (toolkit / name).is_file()
    ]
    if missing:
        what = f"not a clone of the toolkit: there is no {', '.join(missing)}"
        raise Failure(Problem(what, "use a clone of it", str(toolkit)))
    rests = r"(^|/)[.#](?!gitattributes$)|\.(pyc|orig|rej|swp|bak|tmp)$|~$"  # what editors and git leave
    names = [name for name in files_below(scripts) if not re.search(rests, name)]
    files = {name: (scripts / name).read_bytes() for name in names}
    files |= {name: (toolkit / name).read_bytes() for name in BESIDE}
    example = files["mlflow.example.yaml"]  # it is copied to the root of the repository
    files["mlflow.example.yaml"] = example.replace(b"$schema=", f"$schema={folder.as_posix()}/".encode(), 1)
    return files


def edited(folder: Path, record: Installed) -> list[str]:
    """Return the files in the folder that are not as they were installed, those of the user among them."""
    return [
        name
        for name in files_below(folder)
        if name != MANIFEST and digest_of(folder / name) != record.files.get(name)
    ]


def lost(root: Path, folder: Path, record: Installed) -> Iterator[Problem]:
    """Yield what was installed outside the folder and is not there any more."""
    for edit in record.edits:
        text = (read(root / edit.file) or b"").decode("utf-8", "surrogateescape")
        if len(edit.pieces) == len(edits.ADDED):
            names = edits.names_missing(text, edit.pieces)
        else:
            names = [piece.strip() for piece in edit.pieces if edits.take_out(text, piece) is None]
            names += [after.strip() for after, _ in edit.replaced if after not in text.splitlines()]
        for name in names:
            fix = (
                f"put it back, or uninstall (`make -f {folder}/mlflow.mk mlflow-uninstall`) and install again"
            )
            yield Problem(f"no longer has {name}", fix, edit.file, warning=True)


def include_line(folder: Path) -> str:
    """Return the line for a Makefile: found from folders below, too; no error where it is not."""
    return f"include $(wildcard $(dir $(firstword $(MAKEFILE_LIST))){folder.as_posix()}/mlflow.mk)"


def includes(root: Path, line: str) -> list[Path]:
    """Return the makefiles that a line of a makefile includes, as far as their names are written out."""
    found = re.match(r" *(?:-|s)?include[ \t]([^#]*)", line)
    words = re.findall(r"[^\s$(){}]+", found[1]) if found else []
    matches = {word: sorted(glob(word, root_dir=root)) for word in words}  # noqa: PTH207 (Path.glob refuses some)
    return [Path(path) for word, paths in matches.items() for path in paths or [word]]


def is_toolkit(root: Path, makefile: Path, folder: Path) -> bool:
    """Tell whether a makefile is ours, in our folder or another copy, and not one that is only named so."""
    bootstrap = (root / makefile).with_name("bootstrap.sh")
    return makefile == folder / "mlflow.mk" or (makefile.name == "mlflow.mk" and bootstrap.is_file())


def obstacles(root: Path, path: Path) -> Iterator[Problem]:
    """Yield why a path cannot be changed, by what it and the folders above it are."""
    for part in [*reversed(path.parents), path]:
        there, last = root / part, part == path
        if there.is_symlink():
            fix = "replace it by what it points to, or install there"
            yield Problem(f"a symlink to {there.readlink()}", fix, str(part))
        elif there.exists() and not last and not there.is_dir():
            yield Problem("not a folder", "move it away, or choose another folder by DIR=", str(part))
        elif last and there.exists() and not there.is_file():
            yield Problem("not a file", "move it away", str(part))
        elif there.exists() and not (os.access(there, os.W_OK) and there.stat().st_mode & 0o200):
            yield Problem("read-only", f"`chmod u+w {part}`", str(part))


def place() -> tuple[Path, Path, Installed]:
    """Return the repository that this copy is installed in, the copy's folder in it, and its manifest.

    Raises:
        Failure: it is not installed, or make was called in another folder.
    """
    root = Path.cwd()
    folder = Path(os.path.relpath(TOOLKIT_DIR.resolve(), root.resolve()))
    record = installed(TOOLKIT_DIR)
    if record is None:
        what = "this copy was not put here by mlflow-install"
        fix = "update or remove it the way it came: with git, or by hand"
        raise Failure(Problem(what, fix, str(TOOLKIT_DIR.resolve())))
    if not any(include_line(folder) in piece for edit in record.edits for piece in edit.pieces):
        fix = "call make in the folder of the Makefile that includes it: make -C FOLDER; or move it back"
        raise Failure(Problem(f"it was not installed as {folder} of this folder", fix, str(root)))
    return root, folder, record


def word(name: str) -> str:
    """Return a variable of the make command line; the environment may have another's of the same name.

    Raises:
        Failure: it has a `$`, which make has taken for the start of a variable.
    """
    written, value = command_line(), os.environ.get(name, "")
    if name in written and written[name].replace("$$", "$") != value:
        fix = "write $$ for each $"
        raise Failure(Problem(f"{name}: make changes the $ in this value", fix, "make command line"))
    return value if name in written or "MAKELEVEL" not in os.environ else ""


def path_of(text: str) -> Path:
    """Return the path that a user wrote, who may have called make in a folder below this one."""
    written = os.path.expanduser(text)  # noqa: PTH111 (Path's raises where there is no such user)
    return Path(os.environ.get("MLFLOW_CALLED_IN", ""), written)


def without_login(url: str) -> str:
    """Return the URL of a repository without the name and password, or token, that one over HTTP may have."""
    return re.sub(r"(?<=://)[^/@]*@", "", url) if url.startswith("http") else url


def show(sign: str, what: str, pieces: list[str] | None = None) -> None:
    """Print one step of what will be done, and the lines that it adds or takes out."""
    print(f"  {what}")
    show_lines(sign, pieces or [])


def show_lines(sign: str, pieces: list[str]) -> None:
    """Print lines that are added or taken out."""
    for piece in pieces:
        for line in piece.strip("\r\n").splitlines():
            print(f"    {sign} {line}".rstrip())


def git(root: Path, *words: str, told: str = "") -> subprocess.CompletedProcess[str]:
    """Run git in a folder, whatever repository the environment points at."""
    env = {
        name: value for name, value in os.environ.items() if not re.match("GIT_(?!SSH|ASKPASS|CONFIG)", name)
    }
    return subprocess.run(
        ["git", "--no-optional-locks", *words],
        cwd=root,
        env={**env, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
        input=told,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )
