"""mlflow-uninstall: take out exactly what mlflow-install put in; the server's data stays."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import yaml

from common import console
from common.console import UNCHANGED, Failure, Problem, complain, say
from copying.edits import ADDED, USED_BY, take_out, take_out_of_flow
from copying.installation import (
    HALF_DONE,
    MAKEFILES,
    Edit,
    Installed,
    edited,
    includes,
    is_toolkit,
    obstacles,
    place,
    show,
    show_lines,
)
from copying.older import put_back
from copying.transaction import MANIFEST, Change, Tree, alone, apply, pending, read, recover
from flow.login import STATE
from local_platform import client
from settings import problems
from settings.action import RENDERED, RENDERED_DEPLOY
from settings.layers import Settings
from settings.variables import yes

REFERENCES = {name: rf"\bvolumes\.{name}\b" for name in USED_BY}
REFERENCES |= {name: rf"inspect_job\(.{name}\b" for name in USED_BY.values()}


class Removal:
    """What uninstalling does: the changes, and a line for all that has to stay."""

    def __init__(self, root: Path, folder: Path, record: Installed) -> None:
        self.root, self.folder = root, folder
        self.changes: list[Change] = []
        self.shown: list[tuple[str, list[tuple[str, str]]]] = []
        """What is taken out, and the lines that go, by `-`, and come back, by `+`."""
        self.stays: list[Problem] = []
        self.problems: list[Problem] = []
        self.added = any(len(edit.pieces) == len(ADDED) for edit in record.edits)
        """Whether volumes and jobs are ours, not the user's."""
        for edit in record.edits:
            self._file(edit)
        self.problems += [p for p in obstacles(root, folder / MANIFEST) if p not in self.problems]
        kept = edited(root / folder, record)
        for name in kept:
            self.stays.append(
                Problem(
                    "edited here or not ours: it stays",
                    "delete it if you do not need it",
                    f"{folder}/{name}",
                    warning=True,
                )
            )
        after: Tree = {name: root / folder / name for name in kept}
        self.changes.append(Change(folder, after or None))
        self.shown.append((f"{folder}/ ({len(record.files)} files)", []))

    def _file(self, edit: Edit) -> None:
        path = self.root / edit.file
        data = read(path) if path.is_file() else None
        if data is None:
            ours = [name for added in ADDED.values() for name in added]
            names = ours if len(edit.pieces) == len(ADDED) else edit.pieces
            fix = f"if it was renamed, take our part out there: {', '.join(names).strip()}"
            self.stays.append(Problem("not there any more", fix, edit.file, warning=True))
            return
        self.problems += [p for p in obstacles(self.root, Path(edit.file)) if p not in self.problems]
        text = data.decode("utf-8", "surrogateescape")
        try:
            rest, stayed = self._without(edit, text)
        except yaml.YAMLError as error:
            said = getattr(error, "problem", None) or str(error)
            self.problems.append(Problem(f"not YAML: {said}", "correct the file", edit.file))
            return
        for name, line in stayed.items():
            user = USED_BY.get(name)
            why = f"is used by {user}" if user in stayed else "was edited here"
            fix = "take it out yourself if you do not need it"
            self.stays.append(Problem(f"{name} {why}: it stays", fix, f"{edit.file}:{line}", warning=True))
        self._look_at_the_rest(edit.file, rest, stayed)
        if rest == text:
            return
        if edit.created is not None and rest.replace("\r\n", "\n") == edit.created:
            self.changes.append(Change(Path(edit.file), None))
            self.shown.append((edit.file, []))
            return
        self.changes.append(Change(Path(edit.file), rest.encode("utf-8", "surrogateescape")))
        lines = [("-", piece) for piece in edit.pieces]
        lines += [line for after, before in edit.replaced for line in (("-", after), ("+", before))]
        self.shown.append((f"our part of {edit.file}", lines))

    def _without(self, edit: Edit, text: str) -> tuple[str, dict[str, int]]:
        """Return a file's text without our pieces, and what of them has to stay, with its line."""
        if edit.replaced:
            rest = put_back(text, edit.replaced)
            if rest is None:
                return text, {"the job that was taken over": 1}
            fix = "an older MLflow refuses a database that a newer one has upgraded: restore a backup for it"
            what = "the job calls its older action again"
            self.stays.append(Problem(what, fix, edit.file, warning=True))
            return rest, {}
        if len(edit.pieces) == len(ADDED):
            return take_out_of_flow(text, edit.pieces)
        out = take_out(text, edit.pieces[0])
        if out is None:
            return text, {"what was installed": 1} if edit.created is not None and text.strip() else {}
        return out, {}

    def _look_at_the_rest(self, file: str, rest: str, stayed: dict[str, int]) -> None:
        """Find what would miss what is taken out."""
        gone = "|".join(p for name, p in REFERENCES.items() if self.added and name not in stayed)
        for number, line in enumerate(rest.splitlines(), 1):
            where = f"{file}:{number}"
            included = includes(self.root, line) if file in MAKEFILES else []
            if any(is_toolkit(self.root, name, self.folder) for name in included):
                self.problems.append(Problem("still includes the toolkit", "take that line out", where))
            elif gone and re.search(gone, line):
                fix = "correct it: neuro-flow will not find that any more"
                self.stays.append(Problem("refers to what is taken out", fix, where, warning=True))
            elif called := [f for f in (RENDERED, RENDERED_DEPLOY) if f"ws:{f}" in line]:
                fix = "take its job out, or call the action where it is published: gh:OWNER/REPO@TAG"
                what = f"calls ws:{called[0]}, which no target makes any more"
                self.stays.append(Problem(what, fix, where, warning=True))


async def running(settings: Settings) -> list[Problem]:
    """Return a warning for each server of this repository that runs, or might run."""
    from flow import server  # the SDK takes long to import
    from flow.opening import open_flow

    found = []
    chosen = settings.toolkit["platform"]
    names = [chosen.value] if chosen.value != "local" else []
    if client.find(STATE):
        names.append("local")
    for name in names:
        toolkit = {**settings.toolkit, "platform": replace(chosen, value=name)}
        try:
            async with open_flow(replace(settings, toolkit=toolkit)) as flow:
                if flow.job:
                    what = f"the server is running: job {flow.job.id}, {server.address(flow.job)}"
                    fix = f"it goes on; `{flow.login.apolo_typed} kill {flow.job.id}` ends it"
                    if name == "local":  # what ends its platform, too, goes away with the files
                        fix += "; better `make mlflow-down MLFLOW_PLATFORM=local` before uninstalling"
                    found.append(Problem(what, fix, name, warning=True))
        except Failure as failure:
            if not re.match("not logged in", str(failure)):  # else nobody can have started one from here
                found.append(_not_known(name, failure))
        except Exception as error:  # whatever the platform says, the files can go
            found.append(_not_known(name, error))
    return found


def _not_known(platform: str, error: Exception) -> Problem:
    what = f"whether a server is running is not known: {error}".split(";")[0]
    return Problem(what, "look in the platform's list of jobs", platform, warning=True)


def main() -> None:
    """Run the target."""
    settings = problems.typed("uninstall")
    only_show = yes("MLFLOW_DRY_RUN")
    root, folder, record = place()
    with alone(root):
        if pending(root):
            if only_show:
                say(HALF_DONE)
                return
            recover(root)
            if not (root / folder).exists():
                return
        removal = Removal(root, folder, record)
        if removal.problems:
            raise Failure(
                *removal.problems,
                Problem("nothing has been changed", "mend the above and run the same again"),
            )
        warnings = asyncio.run(running(settings))
        print(f"version {record.version} out of {root}")
        for what, lines in removal.shown:
            show("", f"take out {what}")
            for sign, piece in lines:
                show_lines(sign, [piece])
        complain([*warnings, *removal.stays])
        if only_show:
            say(UNCHANGED)
            return
        apply(root, removal.changes, record.folders)
    say(f"uninstalled; {RENDERED.parent}/ stays: it has the set-up and all data of local servers")


if __name__ == "__main__":
    console.run(main)
