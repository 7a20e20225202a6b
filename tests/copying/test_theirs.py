"""What mlflow-install says of variables and patterns of somebody's, and what it makes of them."""

from __future__ import annotations

import subprocess

import pytest

import install

from .conftest import Host, change, commit, lay, snapshot

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
