"""Other ways to have the toolkit in a repository, and what is around it there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import commit, git, lay
from .project import Project, log_run

pytestmark = pytest.mark.e2e


def test_a_running_server_is_named_and_goes_on(tmp_path: Path) -> None:
    project = Project(tmp_path, "running", {})
    try:
        project.install()
        url = project.up()
        _, err = project.make("mlflow-uninstall")
        named = re.search(r"local: the server is running: job (\S+), (\S+); it goes on; `(.+) kill", err)
        assert named
        assert "better `make mlflow-down MLFLOW_PLATFORM=local` before uninstalling" in err
        assert named[2].rstrip("/") == url
        log_run(url)
        kill = f"{named[3]} kill {named[1]}"
        subprocess.run(kill, shell=True, check=True, cwd=project.path, env=project.env)  # noqa: S602
    finally:
        project.end()


def test_copied_by_hand(tmp_path: Path) -> None:
    project = Project(tmp_path, "3 by hand", {})
    try:
        words = ["cp", "-r", "Makefile", "scripts", "action.yaml", ".neuro"]  # as the README of 1.0.0 had it
        subprocess.run([*words, str(project.path)], cwd=project.toolkit, check=True)
        project.set_up()
        out, _ = project.make("help")
        assert "make mlflow-up " in out
        log_run(project.up())
        _, err = project.local("mlflow-deploy", "MODEL=iris", code=1)
        assert f"{project.path}/deploy.yaml: deploy.yaml is missing; copy it from the toolkit" in err
        shutil.copy(project.toolkit / "deploy.yaml", project.path)
        _, err = project.local("mlflow-deploy", "MODEL=iris", code=1)
        assert "there is no model 'iris'" in err
        project.local("mlflow-down")
        _, err = project.make("mlflow-uninstall", code=1)
        assert "was not put here by mlflow-install" in err
        status = git(project.path, "status", "--porcelain").split()
        assert sorted(status[1::2]) == [".neuro/", "Makefile", "action.yaml", "deploy.yaml", "scripts/"]
    finally:
        project.end()


def test_as_a_submodule(tmp_path: Path) -> None:
    project = Project(
        tmp_path, "host", {"Makefile": "all: ; @echo all\ninclude tools/mlflow/scripts/mlflow.mk\n"}
    )
    commit(project.toolkit)
    git(project.path, "submodule", "--quiet", "add", str(project.toolkit), "tools/mlflow")
    shutil.copytree(project.toolkit / ".neuro", project.path / ".neuro")
    project.set_up()
    (project.path / "sub").mkdir()
    for words in (["-C", "."], ["-j8"]):
        out, _ = project.make("mlflow-render", *words)
        assert out == ".mlflow/action.yaml\n"
    run = subprocess.run(
        ["make"], cwd=project.path, env=project.env, capture_output=True, text=True, check=True
    )
    assert run.stdout == "all\n"


def test_with_an_environment_of_ones_own_active(tmp_path: Path) -> None:
    project = Project(tmp_path, "env", {})
    project.install()
    venv = tmp_path / "venv"
    subprocess.run(["python3", "-m", "venv", "--without-pip", str(venv)], check=True)
    own = {
        "VIRTUAL_ENV": str(venv),
        "PATH": f"{venv}/bin:{project.env['PATH']}",
        "PYTHONPATH": str(project.path),
        "PYTHONSAFEPATH": "1",
        "PYTHONHOME": "/none",
        "CONDA_PREFIX": "/none",
    }
    lay(project.path, {"yaml.py": "raise SystemExit('mine')\n", "console.py": "raise SystemExit('mine')\n"})
    out, _ = project.make("mlflow-render", code=0, **own)
    assert out == ".mlflow/action.yaml\n"
