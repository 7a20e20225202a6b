"""What is in the way of mlflow-install is named, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

import install
from copying import installation
from tests.conftest import ROOT

from .conftest import Action, Host, change, commit, git, lay, snapshot


def put(file: str, text: str) -> Action:
    return lambda root: lay(root, {file: text})


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
        ("", "mlflow: error: make command line: INTO is ''; name the folder of a repository"),
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
