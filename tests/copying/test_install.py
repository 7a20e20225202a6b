"""mlflow-install and mlflow-uninstall: what they do, and what is in their way."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from apolo_flow.parser import make_default_project

import install
from copying import installation, transaction
from settings.values import CHECKS
from tests.conftest import ROOT

from .conftest import FILES, Host, commit, git, lay, snapshot, toolkit_in

Action = Callable[[Path], object]


def test_there_and_back(host: Host) -> None:
    before = snapshot(host.root)
    _, err = host.install(code=1, MLFLOW_DRY_RUN="maybe")
    assert "MLFLOW_DRY_RUN is 'maybe'; write yes or no" in err
    shown, err = host.install(MLFLOW_DRY_RUN="yes")
    assert err == "mlflow: nothing has been changed: MLFLOW_DRY_RUN\n"
    assert snapshot(host.root) == before
    assert not (host.root / ".mlflow").exists()

    out, err = host.install()
    assert out == shown
    for line in (
        "/.mlflow",
        "  mlflow_server:",
        "  mlflow:",
        installation.include_line(Path("scripts/mlflow")),
    ):
        assert f"    + {line}\n" in out
    assert "&& make mlflow-up MLFLOW_PLATFORM=local\n" in err
    changed = git(host.root, "status", "--porcelain", "--untracked-files=normal").split("\n")
    assert sorted(changed) == ["", " M .gitignore", " M .neuro/live.yaml", " M Makefile", "?? scripts/"]
    record = json.loads((host.folder / "installed.json").read_text())
    assert record["version"] == (ROOT / "scripts/VERSION").read_text().strip()
    assert set(record["files"]) | {"installed.json"} == set(transaction.files_below(host.folder))
    for name in ("action.yaml", "mlflow.mk", "requirements.lock", "local_platform/mlflow.lock", "LICENSE"):
        assert record["files"][name] == transaction.digest((host.folder / name).read_bytes())
    assert not (host.folder / "__init__.py").exists()  # scripts/mlflow would hide the package mlflow
    assert "$schema=scripts/mlflow/mlflow.schema.json" in (host.folder / "mlflow.example.yaml").read_text()

    installed = snapshot(host.root)
    _, err = host.install()
    assert "installed in" in err
    assert "nothing to do" in err
    assert snapshot(host.root) == installed

    out, err = host.uninstall(MLFLOW_DRY_RUN="yes")
    assert err.endswith("mlflow: nothing has been changed: MLFLOW_DRY_RUN\n")
    assert snapshot(host.root) == installed
    shown, err = host.uninstall()
    assert shown == out
    assert "neuro" not in err  # nobody has logged in to it
    assert snapshot(host.root) == before


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"GNUmakefile": "a:\n", "Makefile": "b:\n"},
        {".apolo/live.yml": "kind: live\r\njobs: {}\r\n", ".neuro/live.yaml": "other", "Makefile": "a: \\"},
        {".neuro/project.yml": "id: x\n", ".gitignore": "x\n.mlflow\n"},
        {"scripts/settings.py": "# mine\n", "action.yaml": "kind: live\n", "Makefile": "# f\xfcr\n"},
    ],
    ids=["nothing", "two Makefiles", "apolo", "no flow", "same names"],
)
def test_into_other_repositories_and_back(host: Host, files: dict[str, str]) -> None:
    host.root = host.root.with_name("ANY project (1)")
    lay(host.root, files)
    host.root.mkdir(exist_ok=True)
    commit(host.root)
    before = snapshot(host.root)
    host.folder = host.root / "tools/ml"
    out, _ = host.install(DIR="tools/ml/")
    assert (host.folder / "mlflow.mk").exists()
    added = [file for file in (".gitignore", "GNUmakefile", ".apolo/live.yml") if file in files]
    for file in added:
        assert (file in out) == (file != ".gitignore")
    assert (".apolo/project.yml" in out) == (".apolo/live.yml" in files)
    host.uninstall(DIR="tools/ml")
    assert snapshot(host.root) == before


def put(file: str, text: str) -> Action:
    return lambda root: lay(root, {file: text})


def change(file: str, old: str, new: str) -> Action:
    def apply(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new))

    return apply


def mode(file: str, bits: int) -> Action:
    return lambda root: (root / file).chmod(bits)


def link(file: str, to: str) -> Action:
    return lambda root: (root / file).symlink_to(to)


def delete(file: str) -> Action:
    return lambda root: (root / file).unlink()


OBSTACLES: dict[str, tuple[list[Action], list[str]]] = {
    "target": (
        [change("Makefile", "all:", "all mlflow-up:"), commit],
        ["Makefile:3: there is a target mlflow-up already; "],
    ),
    "variable": (
        [
            change(
                "Makefile", "\n\n", "\n\nexport MLFLOW_PORT ?= 1\nMLFLOW_DIR=x\nMLFLOW_TRACKING_URI = y\n"
            ),
            commit,
        ],
        [
            "Makefile:3: MLFLOW_PORT is exported, and our targets take it for the setting port; rename",
            "Makefile:4: there is a variable MLFLOW_DIR ",
        ],
    ),
    "target in another file": (
        [put("a.mk", "mlflow-logs:\n"), change("Makefile", "all:", "-include *.mk\nall:"), commit],
        ["a.mk:1: there is a target mlflow-logs already"],
    ),
    "copied by hand": (
        [
            change("Makefile", "all:", "include scripts/*.mk\nall:"),
            put("scripts/mlflow.mk", "mlflow-up:\n"),
            put("scripts/bootstrap.sh", ""),
            commit,
        ],
        ["Makefile:3: includes a copy of the toolkit already"],
    ),
    "a line that was left": (
        [change("Makefile", "all:", f"{installation.include_line(Path(install.FOLDER))}\nall:"), commit],
        ["Makefile:3: includes a copy of the toolkit already"],
    ),
    "job": (
        [change(".neuro/live.yaml", "train", "mlflow_server"), commit],
        [".neuro/live.yaml:4: jobs has mlflow_server already"],
    ),
    "volume": (
        [change(".neuro/live.yaml", "jobs:", "volumes:\n  mlflow: {}\njobs:"), commit],
        [".neuro/live.yaml:4: volumes has mlflow already"],
    ),
    "volume of the project": (
        [put(".neuro/project.yml", "id: x\nvolumes: {mlflow: {}}\n"), commit],
        [".neuro/project.yml: volumes has mlflow already"],
    ),
    "not YAML": (
        [change(".neuro/live.yaml", "jobs:", "jobs: ["), commit],
        [".neuro/live.yaml:5: not YAML: "],
    ),
    "not UTF-8": (
        [lambda root: (root / ".neuro/live.yaml").write_bytes(b"kind: live # \xff\n"), commit],
        [".neuro/live.yaml: not UTF-8 at byte 13"],
    ),
    "uncommitted": (
        [put("Makefile", "b:\n"), put(".gitignore", "x\n")],
        [
            "Makefile: has changes that are not committed; ",
            ".gitignore: has changes that are not committed; ",
        ],
    ),
    "not in git": (
        [
            lambda root: git(root, "rm", "--cached", "-q", "Makefile"),
            lambda root: git(root, "commit", "-qm", "x"),
        ],
        ["Makefile: not in git yet; commit"],
    ),
    "not in git, and ignored": (
        [
            put(".gitignore", ".neuro/\n"),
            lambda root: git(root, "rm", "--cached", "-q", ".neuro/live.yaml"),
            lambda root: git(root, "commit", "-qam", "x"),
        ],
        [".neuro/live.yaml: not in git yet; `git add --force .neuro/live.yaml`, then commit"],
    ),
    "deleted": ([delete(".gitignore")], [".gitignore: has changes that are not committed"]),
    "symlink": (
        [delete("Makefile"), put("build.mk", "all:\n"), link("Makefile", "build.mk"), commit],
        ["Makefile: a symlink to build.mk"],
    ),
    "symlink above": ([link("scripts", "src"), commit], ["scripts: a symlink to src"]),
    "read-only": (
        [mode("Makefile", 0o444), mode(".neuro", 0o555), commit],
        ["Makefile: read-only; `chmod u+w Makefile`", ".neuro: read-only; "],
    ),
    "a file where a folder goes": ([put("scripts", "x"), commit], ["scripts: not a folder"]),
    "a folder where a file goes": (
        [delete(".gitignore"), put(".gitignore/x", ""), commit],
        [".gitignore: not a file"],
    ),
    "half installed": ([put("scripts/mlflow/up.py", "")], ["scripts/mlflow: there is something already"]),
}


@pytest.mark.parametrize(("prepare", "messages"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_is_in_the_way_is_named_and_nothing_changed(
    host: Host, prepare: list[Action], messages: list[str]
) -> None:
    for action in prepare:
        action(host.root)
    before = snapshot(host.root)
    for dry in ("", "yes"):
        out, err = host.install(code=1, MLFLOW_DRY_RUN=dry)
        assert out == ""
        for message in messages:
            assert f"mlflow: error: {message}" in err
        assert err.count("\n") <= 1 + max(2, len(messages))
        assert "nothing has been changed" in err
        assert snapshot(host.root) == before
        assert not (host.root / ".mlflow").exists()
    (host.root / ".neuro").chmod(0o755)


def test_everything_in_the_way_is_named_at_once(host: Host) -> None:
    for name in ("job", "a file where a folder goes", "uncommitted"):
        for action in OBSTACLES[name][0]:
            action(host.root)
    _, err = host.install(code=1)
    for word in ("mlflow_server already", "scripts: not a folder", ".gitignore: has changes"):
        assert word in err


def test_where_it_cannot_go_at_all(host: Host, tmp_path: Path) -> None:
    (tmp_path / "no git").mkdir()
    for into, message in (
        ("", "INTO is ''"),
        (str(tmp_path / "none"), "INTO is '"),
        ("~nobody-here/x", "INTO is '~nobody-here/x'"),
        (str(tmp_path / "no git"), "no git repository; `git init`"),
        (str(ROOT), "this is the toolkit itself"),
    ):
        _, err = host.install(code=1, INTO=into)
        assert message in err
    taken = (".neuro", ".apolo/mlflow", "Makefile", "makefile", ".gitignore", ".mlflow-install")
    for folder in ("../x", "/x", "a b", ".git/x", "a$b", ".mlflow", ".", "-x", *taken):
        _, err = host.install(code=1, DIR=folder)
        assert f"DIR is {folder!r}" in err
    below = host.root / "src"
    _, err = host.install(code=1, INTO=str(below))
    assert f"neuro-flow uses the flow of {host.root} here" in err
    assert snapshot(host.root) == snapshot(host.root)


THEIRS = "MLFLOW_PORT ?= 5000"
NOTE = "warning: Makefile:2: MLFLOW_PORT is not exported, so our targets do not see it; what is meant for "


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ({"Makefile": f"a:\n{THEIRS}\n"}, 0, NOTE),
        ({"Makefile": f"export OTHER\n{THEIRS}\nexport A = MLFLOW_PORT\n"}, 0, NOTE),
        ({"Makefile": f"export\n{THEIRS}\nunexport MLFLOW_PORT\n"}, 0, NOTE),
        ({"Makefile": f"train: export MLFLOW_PORT = 1\n{THEIRS}\n"}, 0, NOTE),
        (
            {"Makefile": "-include .env\n", ".env": "A=b\nMLFLOW_ARTIFACTS_DESTINATION=s3://x\n"},
            0,
            "warning: .env:2: MLFLOW_ARTIFACTS_DESTINATION is not exported",
        ),
        ({"Makefile": "include .env\nexport\n", ".env": "MLFLOW_MODE=x\n"}, 1, ".env:1: MLFLOW_MODE is "),
        (
            {"Makefile": "include .env\nexport $(shell sed 's/=.*//' .env)\n", ".env": "MLFLOW_MODE=x\n"},
            1,
            ".env:1: MLFLOW_MODE is exported, and our targets take it for the setting mode",
        ),
        ({"Makefile": f"{THEIRS}\nexport A MLFLOW_PORT\n"}, 1, "Makefile:1: MLFLOW_PORT is exported"),
        ({"Makefile": f".EXPORT_ALL_VARIABLES:\n{THEIRS}\n"}, 1, "Makefile:2: MLFLOW_PORT is exported"),
        ({"Makefile": "export MLFLOW_FORCE=1\n"}, 1, "and our targets take it for a word"),
        ({"Makefile": "TO = x\nexport MLFLOW_TRACKING_URI = y\n"}, 0, ""),
    ],
)
def test_variables_of_their_makefiles(host: Host, files: dict[str, str], code: int, said: str) -> None:
    lay(host.root, files)
    commit(host.root)
    before = snapshot(host.root)
    _, err = host.install(code=code)
    assert said in err
    assert ("exported" in err) is bool(said)
    assert (snapshot(host.root) == before) is bool(code)


def test_a_misspelt_variable_installs_nothing(host: Host) -> None:
    before = snapshot(host.root)
    _, err = host.install(code=1, MAKEFLAGS=" -- MLFLOW_DRYRUN=yes", MAKELEVEL="1", MLFLOW_DRYRUN="yes")
    assert "MLFLOW_DRYRUN is not a setting" in err
    assert snapshot(host.root) == before
    _, err = host.install(code=1, MAKEFLAGS=" -- DIR=x", MAKELEVEL="1", DIR="x")
    assert "INTO is ''" in err  # the one of the environment may be anybody's
    into = f"{host.root.parent}/a$$b"  # as make hands on what was typed with one $
    _, err = host.install(code=1, MAKEFLAGS=f" -- INTO={into}", MAKELEVEL="1")
    assert "INTO: make changes the $ in this value; write $$ for each $" in err


def test_files_that_git_would_leave_out_are_named(host: Host) -> None:
    change(".gitignore", "*.pyc\n", "*.pyc\n*.lock\n")(host.root)
    commit(host.root)
    _, err = host.install()
    assert "warning: .gitignore:2: the pattern *.lock keeps scripts/mlflow/local_platform/mlflow.lock" in err
    assert err.count("keeps") == 1


@pytest.mark.parametrize("pattern", [".neuro/", "*.yaml"])
def test_a_new_flow_that_git_would_leave_out_is_named(host: Host, pattern: str) -> None:
    (host.root / ".neuro/live.yaml").unlink()
    change(".gitignore", "*.pyc\n", f"{pattern}\n!scripts/**\n")(host.root)
    commit(host.root)
    _, err = host.install()
    assert (
        f"warning: .gitignore:1: the pattern {pattern} keeps .neuro/live.yaml out of git; "
        "`git add --force .neuro/live.yaml` commits it all the same\n"
    ) in err


def test_git_says_itself_how_it_trusts_a_folder(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    hint = f"git config --global --add safe.directory {host.root}"
    said = f"fatal: detected dubious ownership in repository\nTo add an exception, call:\n\n\t{hint}\n"
    monkeypatch.setattr(install, "git", lambda *_: subprocess.CompletedProcess([], 128, "", said))
    _, err = host.install(code=1)
    assert f"(fatal: detected dubious ownership in repository); if you trust its owner: `{hint}`\n" in err


def test_from_an_installed_copy(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.install()
    monkeypatch.setattr(install, "TOOLKIT_DIR", host.folder)
    _, err = host.install(code=1)
    assert "this is an installed copy; install from a clone of the toolkit" in err


def test_what_editors_leave_is_not_installed(tmp_path: Path) -> None:
    names = set(installation.toolkit_files(toolkit_in(tmp_path), Path("x")))
    rests = (
        "up.py.orig",
        "up.py.rej",
        "#up.py#",
        ".up.py.swp",
        "up.swp",
        "up.py~",
        "local_platform/.#api.py",
    )
    lay(tmp_path, {f"scripts/{name}": "" for name in rests})
    assert set(installation.toolkit_files(tmp_path, Path("x"))) == names


def test_another_file_named_like_ours_is_no_copy(host: Host) -> None:
    lay(host.root, {"mk/mlflow.mk": "train: ; @echo\n"})
    change("Makefile", "all:", "include mk/mlflow.mk\nall:")(host.root)
    commit(host.root)
    before = snapshot(host.root)
    host.install()
    host.uninstall()
    assert snapshot(host.root) == before


def test_where_our_data_is_a_symlink_to_another_file_system(
    host: Host, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = host.root.with_name("elsewhere")
    elsewhere.mkdir()
    (host.root / ".mlflow").symlink_to(elsewhere)
    before = snapshot(host.root)

    def within(real: Callable[..., None]) -> Callable[..., None]:
        def rename(old: Path, new: Path) -> None:
            if len({Path(path).resolve().is_relative_to(elsewhere) for path in (old, new)}) == 2:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), old)
            real(old, new)

        return rename

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, within(getattr(os, name)))
    host.install()
    assert (elsewhere / "action.yaml").exists()
    commit(host.root)
    assert "/.mlflow\n" in (host.root / ".gitignore").read_text()
    assert not git(host.root, "ls-files", ".mlflow-install")
    host.update(FROM=str(newer))
    host.uninstall()
    assert snapshot(host.root) == before


def test_a_folder_of_the_users_in_the_place_of_the_stage(host: Host) -> None:
    lay(host.root, {".mlflow-install/notes.txt": "mine", ".mlflow/install/notes.txt": "mine"})
    before = snapshot(host.root)
    _, err = host.install(code=1)
    assert ".mlflow-install/notes.txt: not of the toolkit; move it away" in err
    assert snapshot(host.root) == before
    shutil.rmtree(host.root / ".mlflow-install")
    host.install()
    assert (host.root / ".mlflow/install/notes.txt").read_text() == "mine"


def test_in_a_submodule_and_with_gits_own_variables(host: Host, tmp_path: Path) -> None:
    git(host.root, "submodule", "--quiet", "add", str(host.root), "inner")
    commit(host.root)
    inner = Host(host.root / "inner", host._patch, host._capsys)
    before = snapshot(inner.root)
    inner.install(GIT_DIR=str(tmp_path / "none"), GIT_INDEX_FILE="/none")
    assert (inner.folder / "up.py").exists()
    inner.uninstall()
    assert snapshot(inner.root) == before


@pytest.mark.parametrize(
    ("stem", "needed"),
    [
        ("ok", ""),
        ("Ok-too_1", ""),
        ("class", ""),
        ("my project", "my_project"),
        ("2nd", "project_2nd"),
        ("job-x", "project_job_x"),
        ("Job", "project_job"),
        ("jobs", ""),
        ("DATA", "data"),
        ("a__b", "a_b"),
        ("_x", "x"),
        ("Ünï", "uni"),
        ("проект", "project"),
        ("---", "project"),
        ("a " * 30, "a_a_a_a_a_a_a_a_a_a_a_a_a"),
    ],
)
def test_the_id_of_a_project(stem: str, needed: str) -> None:
    assert install.needed_id(stem) == needed
    assert make_default_project(needed or stem).id is not None
    job = f"{needed or stem}-mlflow-server".replace("_", "-").lower()
    assert CHECKS["job_name"](job) == ""


def test_one_version() -> None:
    version = (ROOT / "scripts/VERSION").read_text().strip()
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^## (\S+)", changelog)[0] in ("Unreleased", version)


def test_another_one_at_work(host: Host) -> None:
    with transaction.alone(host.root):
        _, err = host.install(code=1)
    assert "another install, update or uninstall is at work here" in err


def test_what_was_edited_stays_at_uninstall(host: Host) -> None:
    host.install()
    lay(host.root, {"scripts/mlflow/mine/notes.txt": "mine", "scripts/mlflow/up.py": "edited\n"})
    live = host.root / ".neuro/live.yaml"
    live.write_text(live.read_text().replace("/artifacts", "/elsewhere"))
    makefile = host.root / "Makefile"
    makefile.write_text(makefile.read_text() + "more: ; @echo more\n")
    edited = live.read_text()
    _, err = host.uninstall()
    assert re.search(r"\.neuro/live\.yaml:\d+: mlflow_server was edited here: it stays", err)
    assert "scripts/mlflow/mine/notes.txt: edited here or not ours: it stays" in err
    assert live.read_text() == edited
    assert makefile.read_text() == FILES["Makefile"] + "more: ; @echo more\n"
    assert transaction.files_below(host.root / "scripts") == ["mlflow/mine/notes.txt", "mlflow/up.py"]


def test_a_job_that_got_a_setting_stays_with_its_volume(host: Host) -> None:
    host.install()
    live = host.root / ".neuro/live.yaml"
    live.write_text(live.read_text().replace("    args:\n", "    args:\n      http_auth: True\n"))
    edited = live.read_text()
    lines = {line.strip(): number for number, line in enumerate(edited.splitlines(), 1)}
    _, err = host.uninstall()
    assert live.read_text() == edited
    for line, what in (
        ("mlflow_server:", "mlflow_server was edited here: it stays"),
        ("mlflow:", "mlflow is used by mlflow_server: it stays"),
        ("action: ws:.mlflow/action.yaml", "calls ws:.mlflow/action.yaml, which no target makes any more"),
    ):
        assert f".neuro/live.yaml:{lines[line]}: {what}; " in err
    assert "refers to" not in err


def test_a_job_that_was_renamed_is_named(host: Host) -> None:
    host.install()
    change(".neuro/live.yaml", "mlflow_server:", "tracking:")(host.root)
    _, err = host.uninstall()
    assert "calls ws:.mlflow/action.yaml, which no target makes any more" in err
    assert err.count("refers to what is taken out") == 3


def test_a_file_that_was_renamed_is_named(host: Host) -> None:
    host.install()
    (host.root / ".neuro").rename(host.root / ".apolo")
    (host.root / "Makefile").rename(host.root / "GNUmakefile")
    _, err = host.uninstall()
    for line in (".neuro/live.yaml: {}: mlflow, mlflow_server\n", "Makefile: {}: include $(wildcard "):
        assert line.format("not there any more; if it was renamed, take our part out there") in err


def test_from_a_folder_above_nothing_is_taken_out(host: Host) -> None:
    host.install()
    above = Host(host.root.parent, host._patch, host._capsys)
    lay(above.root, {".gitignore": "/.mlflow\n"})
    before = snapshot(above.root)
    for target in (above.update, above.uninstall):
        _, err = target(code=1, DIR=f"{host.root.name}/scripts/mlflow", FROM=str(ROOT))
        assert "call make in the folder of the Makefile that includes it: make -C FOLDER" in err
        assert snapshot(above.root) == before


def test_uninstall_names_what_would_miss_it(host: Host) -> None:
    host.install()
    live = host.root / ".neuro/live.yaml"
    live.write_text(live.read_text().replace("bash: echo", 'volumes: ["${{ volumes.mlflow.ref_rw }}"]'))
    makefile = host.root / "Makefile"
    whole = makefile.read_text()
    makefile.write_text(whole.replace("include $(wildcard", "-include $(wildcard"))
    before = snapshot(host.root)
    _, err = host.uninstall(code=1)
    assert "Makefile:4: still includes the toolkit; take that line out" in err
    assert snapshot(host.root) == before
    makefile.write_text(whole)
    _, err = host.uninstall()
    assert re.search(r"live\.yaml:\d+: refers to what is taken out", err)


def test_an_install_by_half_is_recognised(host: Host) -> None:
    before = snapshot(host.root)
    host.install()
    git(host.root, "checkout", "--quiet", "Makefile", ".neuro")
    _, err = host.install(code=1)
    assert "Makefile: no longer has include $(wildcard" in err
    assert ".neuro/live.yaml: no longer has mlflow_server; put it back, or uninstall" in err
    host.uninstall()
    assert snapshot(host.root) == before


def test_uninstall_replaces_no_symlink_and_nothing_read_only(host: Host) -> None:
    host.install()
    (host.root / "Makefile").rename(host.root / "build.mk")
    (host.root / "Makefile").symlink_to("build.mk")
    (host.root / ".gitignore").chmod(0o444)
    before = snapshot(host.root)
    _, err = host.uninstall(code=1)
    assert "Makefile: a symlink to build.mk" in err
    assert ".gitignore: read-only" in err
    assert snapshot(host.root) == before


def test_what_cannot_be_uninstalled(host: Host) -> None:
    _, err = host.uninstall(code=1)
    assert "was not put here by mlflow-install" in err
    host.install()
    (host.folder / "installed.json").write_text("<<<<<<< HEAD\n")
    _, err = host.uninstall(code=1)
    assert "installed.json: not a manifest; restore it with git" in err
    git(host.root, "checkout", ".")
    (host.folder / "installed.json").unlink()
    _, err = host.uninstall(code=1)
    assert "was not put here" in err


def test_a_folder_that_cannot_be_written(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(host.root)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(transaction, "_write", full)
    _, err = host.install(code=1)
    assert "No space left on device; nothing has been changed" in err
    assert snapshot(host.root) == before
    assert not (host.root / ".mlflow").exists()
