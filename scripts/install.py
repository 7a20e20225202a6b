"""mlflow-install: put the toolkit into somebody's repository; if anything is in the way, nothing."""

from __future__ import annotations

import contextlib
import re
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from common import console
from common.console import UNCHANGED, Failure, Problem, complain, say
from copying import edits, older
from copying.installation import (
    HALF_DONE,
    MAKEFILES,
    Edit,
    Installed,
    git,
    include_line,
    installed,
    lost,
    obstacles,
    path_of,
    show,
    show_lines,
    toolkit_files,
    version_of,
    without_login,
    word,
)
from copying.makefiles import read_all, taken_names
from copying.older import TakeOver
from copying.transaction import (
    MANIFEST,
    STAGE,
    Change,
    alone,
    apply,
    digest,
    missing_folders,
    pending,
    read,
    recover,
)
from settings import problems
from settings.action import ACTION, DEPLOY, RENDERED, RENDERED_DEPLOY, compose, find, read_inputs
from settings.layers import TOOLKIT_DIR, load
from settings.live import CALL, ActionJob, live_file, server_jobs
from settings.variables import MAKE, yes

FOLDER = "scripts/mlflow"
IGNORED = "/.mlflow"  # without a slash at the end: it may be a symlink
TAKEN = {"..", ".git", ".gitignore", ".mlflow", str(STAGE), ".neuro", ".apolo"} | {*map(str.lower, MAKEFILES)}
"""No part of DIR: what has these names is not ours alone. A file system may not tell M from m."""


@dataclass
class Plan:
    """What is to be done to a repository, and what is in the way of it."""

    root: Path
    folder: Path
    changes: list[Change] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    recognised: str = ""
    """The job that calls our action already, if there is one."""
    older: TakeOver | None = None
    """The job that calls an older action, if there is one."""

    def edit(self, path: Path, new: str, pieces: list[str], created: str | None) -> None:
        """Add the edit of a file; `created` is what a file of our making holds beside the pieces."""
        self.changes.append(Change(path, new.encode("utf-8", "surrogateescape")))
        self.edits.append(Edit(path.as_posix(), pieces, created))

    def take_over(self, path: Path, text: str, older: TakeOver) -> None:
        """Add what it takes for a job to call our action."""
        new, replaced = older.apply(text)
        self.changes.append(Change(path, new.encode()))
        self.edits.append(Edit(path.as_posix(), [], None, replaced))
        self.problems += older.problems
        self.older = older

    def trouble(self, what: str, fix: str, source: object, *, warning: bool = False) -> None:
        """Add something that is in the way."""
        self.problems.append(Problem(what, fix, str(source), warning))


def target() -> tuple[Path, Path]:
    """Return the repository to install into, and the folder in it.

    Raises:
        Failure: INTO is no git repository, DIR is no folder in it, or this is no clone of the toolkit.
    """
    toolkit = TOOLKIT_DIR.resolve().parent
    into, folder = word("INTO"), Path(word("DIR") or FOLDER)
    usage = "make mlflow-install INTO=../my-project"
    if (TOOLKIT_DIR / MANIFEST).exists():
        fix = f"install from a clone of the toolkit: {usage}"
        raise Failure(Problem("this is an installed copy", fix, str(TOOLKIT_DIR)))
    root = path_of(into).resolve()
    if not into or not root.is_dir():
        raise Failure(Problem(f"INTO is {into!r}", f"name the folder of a repository: {usage}", MAKE))
    if root == toolkit or toolkit in root.parents:
        raise Failure(Problem("this is the toolkit itself", f"name another repository: {usage}", str(root)))
    if (
        folder.is_absolute()
        or not folder.parts
        or not all(re.fullmatch(r"[\w@+.][\w@+.-]*", part) for part in folder.parts)
        or TAKEN & {part.lower() for part in folder.parts}
    ):
        fix = "name a folder of its own in the repository, without blanks and special signs: DIR=tools/mlflow"
        raise Failure(Problem(f"DIR is {str(folder)!r}", fix, MAKE))
    inside = git(root, "rev-parse", "--is-inside-work-tree")
    if inside.stdout.strip() != "true":
        said = inside.stderr.strip().splitlines()
        reason = "" if not said or "not a git repository" in said[0] else f" ({said[0]})"
        fix = "`git init` there, and commit: so you see what is added, and can go back"
        if hint := re.search(r"git config .*safe\.directory .*", inside.stderr):
            fix = f"if you trust its owner: `{hint[0]}`"
        raise Failure(Problem(f"no git repository{reason}", fix, str(root)))
    return root, folder


def make_plan(root: Path, folder: Path, files: dict[str, bytes], origin: str) -> Plan:
    """Return what installing does to a repository; its problems are all that is in the way."""
    plan = Plan(root, folder)
    if (root / folder).exists() or (root / folder).is_symlink():
        plan.trouble("there is something already", "move it away, or choose another folder by DIR=", folder)
    _edit_gitignore(plan)
    _edit_flow(plan)
    _edit_makefile(plan)
    for path in [folder, *(change.path for change in plan.changes)]:
        inner = path / MANIFEST if path == folder else path
        plan.problems += [p for p in obstacles(root, inner) if p not in plan.problems]
        words = ["--porcelain", "--untracked-files=all", "--ignored", "--", str(path)]
        if said := git(root, "status", *words).stdout:
            state, fix = said[:2], "commit or stash that first"
            what = "not in git yet" if state in ("??", "!!") else "has changes that are not committed"
            plan.trouble(what, f"`git add --force {path}`, then {fix}" if state == "!!" else fix, path)
    plan.problems += _ignored_files(plan, list(files))
    record = Installed(
        version_of(TOOLKIT_DIR),
        origin,
        {name: digest(data) for name, data in files.items()},
        plan.edits,
        missing_folders(root, [change.path for change in plan.changes] + [folder]),
    )
    plan.changes.insert(0, Change(folder, {**files, MANIFEST: record.text()}))
    return plan


def _text(plan: Plan, path: Path) -> str | None:
    """Return a file's text to edit, whatever its encoding; None where there is no such file."""
    data = read(plan.root / path) if (plan.root / path).is_file() else None
    return None if data is None else data.decode("utf-8", "surrogateescape")


def _edit_gitignore(plan: Plan) -> None:
    path = Path(".gitignore")
    text = _text(plan, path)
    if text is None or not re.search(r"(?m)^/?\.mlflow/?\s*$", text):
        new, added = edits.add_line(text or "", IGNORED)
        plan.edit(path, new, [added], "" if text is None else None)


def _edit_flow(plan: Plan) -> None:
    root = plan.root
    folder = next((f for f in (Path(".apolo"), Path(".neuro")) if (root / f).is_dir()), Path(".neuro"))
    live = live_file(root / folder)
    path = live.relative_to(root) if live else folder / "live.yaml"
    above = next((p for p in root.parents if any(live_file(p / f) for f in (".apolo", ".neuro"))), None)
    if (
        not live
        and above
        and len({git(p, "rev-parse", "--show-toplevel").stdout for p in (root, above)}) == 1
    ):
        fix = f"install there: INTO={shlex.quote(str(above))}; a flow here would hide it"
        plan.trouble(f"neuro-flow uses the flow of {above} here", fix, path)
    adds = False
    try:
        text = live.read_bytes().decode("utf-8") if live else edits.NEW_FLOW
        flow = compose(text.removeprefix("\ufeff"))
        olds = older.older_jobs(flow, root)
        if ours := server_jobs(flow):
            plan.recognised = ours[0]
        elif job := _chosen(plan, olds, path):
            plan.take_over(path, text, older.take_over(job, text, read_inputs(load().action_text), path))
        elif not olds:
            adds = True
            new, pieces = edits.add_to_flow(text)
            plan.edit(path, new, pieces, None if live else edits.NEW_FLOW)
    except UnicodeDecodeError as error:
        plan.trouble(f"not UTF-8 at byte {error.start}", "save the file as UTF-8", path)
    except edits.NotEditableError as error:
        for what, fix, line in error.reasons:
            plan.trouble(what, fix, f"{path}:{line}")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error).replace("\n", " ")
        plan.trouble(f"not YAML: {said}", "correct the line", f"{path}:{mark.line + 1 if mark else 1}")
    projects = [root / at / f"project.{end}" for at in (folder, ".") for end in ("yml", "yaml")]
    project = next(filter(Path.is_file, projects), None)
    if project is None and (name := needed_id(root.stem)):
        text = f"# neuro-flow would take the folder's name, but {root.name!r} does for no id.\nid: {name}\n"
        plan.edit(folder / "project.yml", text, [text], "")
    for name in edits.USED_BY:
        if adds and project and _volume_of_project(project, name):
            what = f"volumes has {name} already"
            plan.trouble(what, "rename it: the toolkit adds its own", project.relative_to(root))


def _chosen(plan: Plan, olds: list[ActionJob], path: Path) -> ActionJob | None:
    """Return the job to take over: the only one that calls an older action, or the one that was named."""
    if len(olds) < 2:
        return olds[0] if olds else None
    named = next((job for job in olds if job.name == word("TAKE_OVER")), None)
    if named is None:
        what = f"{' and '.join(job.name for job in olds)} call an older action for an MLflow server"
        plan.trouble(what, "say which to take over: TAKE_OVER=JOB", path)
    return named


def needed_id(stem: str) -> str:
    """Return an id for a project whose folder's name does for none, else an empty string.

    It has to be an identifier, and the jobs are named after it: `ID-mlflow-server`, in 40 characters, and the
    platform keeps names that begin with `job-` for itself.
    Source: `make_default_project` in apolo_flow 24.12.1, and the platform's rule for names.
    """
    usual = stem.replace("-", "_")
    fits = re.fullmatch(r"(?!job(_|\Z))[a-z][a-z0-9]*(_[a-z0-9]+)*", usual.lower())
    if usual != usual.upper() and fits:
        return ""
    ascii_only = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    name = "_".join(re.findall("[a-z0-9]+", ascii_only))
    name = name if re.match(r"(?!job(_|\Z))[a-z]", name) else f"project_{name}"
    return name[:26].rstrip("_")


def _volume_of_project(project: Path, name: str) -> bool:
    try:
        return find(compose(project.read_text(encoding="utf-8")), "volumes", name) is not None
    except (UnicodeDecodeError, yaml.YAMLError):
        return False  # neuro-flow will say so


def _edit_makefile(plan: Plan) -> None:
    names = {path.name for path in plan.root.iterdir()}  # of a file system that may not tell M from m
    path = Path(next((name for name in MAKEFILES if name in names), "Makefile"))
    text = _text(plan, path)
    new, added = edits.add_line(text or "", include_line(plan.folder))
    plan.edit(path, new, [added], "" if text is None else None)
    plan.problems += taken_names(plan.root, plan.folder, read_all(plan.root, path, plan.folder))


def _ignored_files(plan: Plan, names: list[str]) -> Iterator[Problem]:
    """Yield a warning for each pattern by which git would leave out new files that others need as well."""
    new = {f"{plan.folder / name}": str(plan.folder) for name in names}  # and by what it is added
    new |= {edit.file: edit.file for edit in plan.edits if edit.created is not None}
    words = ["check-ignore", "--no-index", "--verbose", "-z", "--stdin"]
    said = git(plan.root, *words, told="\0".join(new)).stdout.split("\0")
    patterns: dict[tuple[str, str, str], str] = {}
    for source, line, pattern, path in zip(said[::4], said[1::4], said[2::4], said[3::4], strict=False):
        if not pattern.startswith("!"):
            patterns.setdefault((f"{source}:{line}", pattern, new[path]), path)
    for (where, pattern, whole), path in patterns.items():
        fix = f"`git add --force {whole}` commits it all the same"
        yield Problem(f"the pattern {pattern} keeps {path} out of git", fix, where, warning=True)


def origin_of(toolkit: Path) -> str:
    """Return where the toolkit was cloned from, without a password; empty where others could not clone it."""
    url = git(toolkit, "config", "--get", "remote.origin.url").stdout.strip()
    top = git(toolkit, "rev-parse", "--show-toplevel").stdout.strip()
    if not top or Path(top).resolve() != toolkit or not re.match(r"\w+://|[\w.-]+@[\w.-]+:", url):
        return ""
    return without_login(url)


def main() -> None:
    """Run the target."""
    problems.typed("install")
    only_show = yes("MLFLOW_DRY_RUN")
    root, folder = target()
    toolkit = TOOLKIT_DIR.resolve().parent
    files = toolkit_files(toolkit, folder)
    with alone(root):
        if pending(root):
            if only_show:
                say(HALF_DONE)
                return
            recover(root)
        record = installed(root / folder)
        half = list(lost(root, folder, record)) if record else []
        if half:
            what = "it is installed by half"
            raise Failure(*(replace(p, warning=False) for p in half), Problem(what, "see above", str(root)))
        if record and record.version == version_of(TOOLKIT_DIR):
            say(f"version {record.version} is installed in {root / folder} already; nothing to do")
            return
        if record:
            command = f"`make mlflow-update FROM={shlex.quote(str(toolkit))}`"
            fix = f"{command} there brings this version, {version_of(TOOLKIT_DIR)}"
            raise Failure(Problem(f"version {record.version} is installed already", fix, str(root / folder)))
        plan = make_plan(root, folder, files, origin_of(toolkit))
        if any(not problem.warning for problem in plan.problems):
            fix = f"{older.stays(plan.older)}; " if plan.older else ""
            fix += "mend the above and run the same again"
            raise Failure(*plan.problems, Problem("nothing has been changed", fix, str(root)))
        print(f"version {version_of(TOOLKIT_DIR)} into {root}")
        show("+", f"new   {folder}/ ({len(files)} files)")
        for edit in plan.edits:
            show("+", f"{'edit ' if edit.created is None else 'new  '} {edit.file}", edit.pieces)
            for after, before in edit.replaced:
                show_lines("-", [before])
                show_lines("+", [after])
        if plan.recognised:
            print(f"  keep  the job {plan.recognised}, which calls {CALL} already")
        for note in plan.older.notes if plan.older else ():
            print(f"  {note}")
        complain(plan.problems)
        if only_show:
            say(UNCHANGED)
            return
        if plan.older and not older.agreed(plan.older):
            return
        apply(root, plan.changes, [])
        with contextlib.suppress(OSError):  # any target makes it, but `neuro-flow ps` wants it before
            for name, path in ((ACTION, RENDERED), (DEPLOY, RENDERED_DEPLOY)):
                if not (root / path).exists():
                    (root / path.parent).mkdir(exist_ok=True)
                    (root / path).write_bytes(files[name])
    start = "restart" if plan.older else "up MLFLOW_PLATFORM=local"
    say(f"installed; commit it, then: cd {shlex.quote(str(root))} && make mlflow-{start}")


if __name__ == "__main__":
    console.run(main)
