"""mlflow-install and mlflow-uninstall: there and back, and what is around them."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from apolo_flow.parser import make_default_project

import install
from copying import installation, transaction
from settings.values import CHECKS
from tests.conftest import ROOT

from .conftest import Host, change, commit, git, lay, snapshot, toolkit_in


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
        "  mlflow_model:",
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
    for name in (
        "action.yaml",
        "deploy.yaml",
        "mlflow.mk",
        "requirements.lock",
        "local_platform/mlflow.lock",
        "LICENSE",
    ):
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
