"""mlflow-update: bring the installed copy to another version; what the user edited is kept."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from common import console
from common.console import UNCHANGED, Failure, Problem, complain, say
from copying.installation import (
    HALF_DONE,
    Installed,
    as_numbers,
    git,
    lost,
    obstacles,
    path_of,
    place,
    show,
    toolkit_files,
    version_of,
    without_login,
    word,
)
from copying.transaction import (
    MANIFEST,
    Change,
    Tree,
    alone,
    apply,
    digest,
    digest_of,
    files_below,
    pending,
    recover,
)
from settings.problems import typed
from settings.variables import MAKE, yes


@contextmanager
def fetched(wanted: str, origin: str) -> Iterator[Path]:
    """Yield the toolkit that FROM names: a folder, or a tag or branch that git fetches for the while.

    Raises:
        Failure: it is neither.
    """
    where = path_of(wanted)
    if wanted and where.is_dir():
        yield where.resolve()
        return
    url, _, tag = wanted.rpartition("@")
    if re.search(r"[/:]", tag):  # the @ of git@HOST:PATH
        url, tag = wanted, ""
    url = url or origin
    if not url or not tag or tag.startswith("-"):
        fix = "name a folder, a tag of the toolkit, or REPOSITORY@TAG: make mlflow-update FROM=../toolkit"
        why = "" if origin or not tag else ", and where tags are fetched from is not known"
        raise Failure(Problem(f"FROM is {without_login(wanted)!r}{why}", fix, MAKE))
    if path_of(url).is_dir():
        url = str(path_of(url).resolve())
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "toolkit"
        command = ["clone", "--quiet", "--depth", "1", "--branch", tag, "--", url, str(clone)]
        shown = without_login(url)
        say(f"fetching {tag} from {shown}")
        run = git(Path(folder), "-c", "advice.detachedHead=false", *command)
        if run.returncode:
            reason = run.stderr.strip().splitlines()[-1:] or ["git failed"]
            what = f"git cannot fetch {tag} from {shown}: {reason[0]}"
            raise Failure(Problem(what, "look at both", "FROM"))
        yield clone


class Difference:
    """What an update does to the folder: the files that it will hold, and the names of those that differ."""

    def __init__(self, folder: Path, record: Installed, files: dict[str, bytes]) -> None:
        self.files: Tree = {}
        self.replaced: list[str] = []
        self.dropped: list[str] = []
        self.beside: list[str] = []
        """Edited by the user, with the new one laid beside."""
        self.left: list[str] = []
        """Edited by the user, with nothing new to say."""
        self.unmerged: list[str] = []
        """Files with the name that the new one would be laid under, and edited too."""
        self.hashes = {name: digest(data) for name, data in files.items()}
        there = {name: digest_of(folder / name) for name in files_below(folder) if name != MANIFEST}
        for name, data in files.items():
            was, now, new = record.files.get(name), there.pop(name, ""), self.hashes[name]
            if now in ("", was, new):
                self.files[name] = data
                if now != new:
                    self.replaced.append(name)
                continue
            self.files[name] = folder / name
            beside = f"{name}.new"
            if new == was:
                self.left.append(name)
                if there.get(beside) != new:
                    continue
            else:
                self.beside.append(name)
            self.files[beside] = data
            self.hashes[beside] = new
            if there.pop(beside, "") not in ("", record.files.get(beside, ""), new):
                self.unmerged.append(beside)
        for name, now in there.items():
            was = record.files.get(name)
            if now == was:
                self.dropped.append(name)
            else:
                self.files[name] = folder / name
                self.left += [name] if was else []


def main() -> None:
    """Run the target."""
    typed("update")
    only_show = yes("MLFLOW_DRY_RUN")
    root, folder, record = place()
    with alone(root), fetched(word("FROM"), record.origin) as toolkit:
        if pending(root):
            if only_show:
                say(HALF_DONE)
                return
            recover(root)
            root, folder, record = place()
        if problems := list(obstacles(root, folder / MANIFEST)):
            raise Failure(*problems)
        files = toolkit_files(toolkit, folder)
        version = version_of(toolkit / "scripts")
        if as_numbers(version) < as_numbers(record.version):
            fix = "older versions may not read a newer database; to go back, uninstall and install that one"
            raise Failure(
                Problem(f"{version} is older than {record.version}, which is installed", fix, str(toolkit))
            )
        found = Difference(root / folder, record, files)
        if found.unmerged:
            fix = "merge it into your file and delete it"
            raise Failure(
                *(
                    Problem("a .new that was edited is in the way", fix, f"{folder}/{name}")
                    for name in found.unmerged
                )
            )
        complain(lost(root, folder, record))
        new = replace(record, version=version, files=found.hashes)
        for name in found.left:
            say(f"{folder}/{name} was edited here and stays as it is")
        if new == record and not found.replaced and not found.dropped:
            say(f"version {version} is installed already; nothing to do")
            return
        print(f"version {record.version} to {version} in {folder}/")
        for what, names in (("write", found.replaced), ("drop ", found.dropped)):
            for name in names:
                show("", f"{what} {name}")
        for name in found.beside:
            show("", f"keep  {name}, which was edited here; the new one is {name}.new")
        if only_show:
            say(UNCHANGED)
            return
        apply(root, [Change(folder, {**found.files, MANIFEST: new.text()})], [])
    say(f"version {version} is installed; your settings and your flow are as they were")


if __name__ == "__main__":
    console.run(main)
