"""Realistic repositories: install, start, log a run, stop, update, uninstall; and the tree is as before."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import commit, git, snapshot
from .project import Project, log_run

pytestmark = pytest.mark.e2e

HELP = """\
help: ## Print this help
\t@grep -E '^[a-zA-Z_-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{print $$1, $$2}'
"""
HABITS = (
    """\
# The makefile of a team with habits.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.SECONDEXPANSION:
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules --no-print-directory
.RECIPEPREFIX = >
.DEFAULT_GOAL = $(firstword $(GOALS))
GOALS := test lint
export PYTHONPATH := src
VENV ?= .venv

.PHONY: test lint list
test: ; @echo "testing with $(SHELL)" in $(notdir $(CURDIR)) \\
    $$PYTHONPATH
lint:
> x=1
> y=$$((x + 1))
> echo $$y
list: ; @echo $(MAKEFILE_LIST) $(.DEFAULT_GOAL)
%.out: %.in
> cp $< $@
"""
    + "".join(f"rule-{n}: ; @echo {n}\n" for n in range(3000))
    + "last: ; @echo last $(LAST)\nLAST := a \\\n"
)
ANCHORS = """\
# What we run on the platform.
kind: live
title: 'Habits'   # quoted


volumes:
  # data sets
  data: &data
    remote: storage:$[[ flow.project_id ]]/data
    mount: /project/data
    local: data

jobs:

  # the main one
  train:
    image: python:3.12-slim
    env: &env {A: "1", 'B': '${{ volumes.data.mount }}'}
    bash: |
      # not a comment
      echo "a: b"
  again:
    image: python:3.12-slim
    env: *env
    bash: "true"
"""
TEMPLATE = """\
# yaml-language-server: $schema=https://example.org/flow-schema.json
kind: live
title: {title}

images:
  train:
    ref: image:/$[[ project.project_name ]]/$[[ flow.project_id ]]:v1
    dockerfile: $[[ flow.workspace ]]/Dockerfile
    context: $[[ flow.workspace ]]/


jobs:
  train:
    image: $[[ images.train.ref ]]
    bash: |
      echo train
"""
ACTION = """\
kind: live
name: Greeter
inputs:
  whom: {descr: Whom to greet, default: world}
job:
  image: python:3.12-slim
  cmd: echo ${{ inputs.whom }}
"""
CALLER = "kind: live\njobs:\n  greet:\n    action: ws:action.yaml\n    args: {whom: you}\n"
SETTINGS = "import mlflow_settings_of_mine\n"

REPOSITORIES: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "without a Makefile": ("Mÿ Projéct (2)", {"README.md": "# Mine\n", "src/train.py": "pass\n"}, []),
    "habits": (
        "habits",
        {
            "Makefile": HABITS,
            ".neuro/live.yaml": ANCHORS,
            "scripts/settings.py": SETTINGS,
            ".gitignore": "/data/",
        },
        [
            "",
            "test",
            "lint",
            "list",
            "rule-2999",
            "-j8 lint",
            "-B list",
            "last",
            "-C scripts -f ../Makefile list",
        ],
    ),
    "CRLF and braces": (
        "2nd-project",
        {
            "Makefile": "SHELL = /bin/bash\r\nall:; @echo all $(SHELL)\r\n",
            ".neuro/live.yaml": "kind: live\r\njobs: {}",
            ".neuro/project.yml": "id: braces\r\n",
            ".gitignore": "*.pyc\r\n",
        },
        ["", "all"],
    ),
    "template": (
        "from-template",
        {
            ".neuro/live.yml": TEMPLATE.replace("{title}", "From the template"),
            ".neuro/project.yml": "id: from_template\n",
            "Dockerfile": "FROM python:3.12-slim\n",
            "Makefile": HELP + "%: FORCE ; @echo any $@\nFORCE: ;\nMakefile: ;\n",
        },
        ["help", "other", "-B other"],
    ),
    "apolo": (
        "apolo",
        {
            ".apolo/live.yml": TEMPLATE.replace("{title}", "New"),
            "GNUmakefile": HELP,
            "Makefile": "a: ; false\n",
        },
        ["help"],
    ),
    "an action": (
        "action",
        {"action.yaml": ACTION, ".neuro/live.yaml": CALLER, "makefile": "t: ; @echo t\n"},
        ["t"],
    ),
}


@pytest.fixture
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path, *REPOSITORIES[request.param][:2])
    yield made
    made.end()


@pytest.mark.parametrize("project", REPOSITORIES, indirect=True)
def test_there_and_back(project: Project, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    goals = REPOSITORIES[request.node.callspec.params["project"]][2]
    before, own, database = snapshot(project.path), project.own(goals), project.database()
    assert all(code == 0 for code, _, _ in own.values()), own
    project.install()
    assert project.own(goals) == own
    if goals:
        assert project.database() == database
    commit(project.path)

    run = log_run(project.up())
    if (project.path / "scripts/settings.py").exists():  # their scripts/ holds a folder mlflow now
        code = "import sys; sys.path.insert(0, sys.argv[1]); import mlflow; print(mlflow.__version__)"
        assert project.python(code, str(project.path / "scripts")).startswith("3.")
    below = project.path / "deep/er"
    below.mkdir(parents=True)
    words = ["make", "-s", "-f", f"../../{makefile_of(project.path)}", "mlflow-render"]
    run_below = subprocess.run(words, cwd=below, env=project.env, capture_output=True, text=True, check=True)
    assert ".mlflow/action.yaml\n" in run_below.stdout
    assert not any(below.iterdir())
    shutil.rmtree(project.path / "deep")
    project.local("mlflow-down")
    assert git(project.path, "status", "--porcelain") == ""

    (project.toolkit / "scripts/VERSION").write_text("99.0\n")
    (project.toolkit / "scripts/extend.py").unlink()
    project.make("mlflow-update", f"FROM={project.toolkit}")
    out, _ = project.make("mlflow-help")
    assert out.startswith("MLflow server toolkit 99.0 in ")
    assert out.splitlines()[0].endswith("scripts/mlflow")
    _, err = project.local("mlflow-uninstall")
    assert "is running" not in err
    assert snapshot(project.path) == before
    assert project.own(goals) == own
    assert [file.name for file in project.state.rglob("a.txt") if run in str(file)] == ["a.txt"]
    assert project.processes() == []


def makefile_of(root: Path) -> str:
    """Return the name of the makefile that make reads."""
    return next(name for name in ("GNUmakefile", "makefile", "Makefile") if (root / name).exists())
