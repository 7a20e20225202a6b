"""mlflow.mk, on its own and in a Makefile with habits of its own; and README.md's table of targets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from settings.variables import OF_TARGETS
from tests.conftest import ROOT

MK = (ROOT / "scripts/mlflow.mk").read_text(encoding="utf-8")
TARGETS = re.findall(r"(?m)^(mlflow-\w+): ; .* ## (.+)$", MK)
ODD = {
    "plain": "all: ; @echo host\n",
    "another shell": "SHELL := /bin/false\n.SHELLFLAGS := -x\n",
    "one shell": ".ONESHELL:\n",
    "another recipe prefix": ".RECIPEPREFIX := >\nall:\n> @echo host\n",
    "flags": "MAKEFLAGS += --no-builtin-rules --warn-undefined-variables\n",
    "everything exported": ".EXPORT_ALL_VARIABLES:\n.POSIX:\nMAKEFLAGS += -e\n",
    "secondary expansion": ".SECONDEXPANSION:\n.DELETE_ON_ERROR:\n",
}


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder, with an empty HOME."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder.parent)}
    return subprocess.run(["make", *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def host(workspace: Path) -> Path:
    """A repository of somebody's with the toolkit copied into it, set up."""
    shutil.copytree(ROOT / "scripts", workspace / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for action in ("action.yaml", "deploy.yaml"):
        shutil.copy(ROOT / action, workspace)
    (workspace / ".mlflow").mkdir()
    (workspace / ".mlflow/venv").symlink_to(ROOT / ".mlflow/venv")
    return workspace


@pytest.mark.parametrize("makefile", ODD.values(), ids=ODD)
def test_it_works_in_any_makefile(host: Path, makefile: str) -> None:
    (host / "Makefile").write_text(makefile + "include scripts/mlflow.mk\n")
    run = make(host, "-s", "mlflow-render", "MLFLOW_PORT=7000")
    assert (run.returncode, run.stdout, run.stderr) == (0, ".mlflow/action.yaml\n", "")
    assert 'http_port: ${{ "7000" }}' in (host / ".mlflow/action.yaml").read_text()


def test_it_works_from_another_folder(host: Path) -> None:
    (host / "Makefile").write_text(ODD["plain"] + "include scripts/mlflow.mk\n")
    run = make(host.parent, "-s", "-C", host.name, "mlflow-render")
    assert run.returncode == 0, run.stderr


def test_it_changes_nothing_of_the_hosts(host: Path) -> None:
    own = "SHELL := /bin/bash\nall: a\na: ; @echo host $@ $(SHELL)\n"

    def database(text: str) -> list[str]:
        (host / "Makefile").write_text(text)
        lines = make(host, "-pn", "all").stdout.splitlines()
        ours = re.compile(r"mlflow|MLFLOW|^#|MAKEFILE_LIST|^\s*$|^\.PHONY|SHELL(FLAGS)? :=")
        return [line for line in lines if not ours.search(line)]

    assert database(own) == database(own + "include scripts/mlflow.mk\n")
    assert make(host).stdout == "host a /bin/bash\n"


@pytest.mark.e2e
@pytest.mark.parametrize("target", [name for name, _ in TARGETS])
def test_every_target_says_what_it_would_ignore(host: Path, target: str) -> None:
    (host / "Makefile").write_text("include scripts/mlflow.mk\n")
    others = [name for name, takers in OF_TARGETS.items() if target.removeprefix("mlflow-") not in takers]
    run = make(host, target, "DRY_RUN=yes", *(f"{name}=x" for name in others))
    for name in others:
        assert f"error: make command line: {target} does not take {name}; " in run.stderr
    assert "error: make command line: DRY_RUN is not a setting; did you mean MLFLOW_DRY_RUN?" in run.stderr
    shows_all_the_same = target in ("mlflow-config", "mlflow-help")
    assert (run.returncode, bool(run.stdout)) == ((0, True) if shows_all_the_same else (2, False))


@pytest.mark.parametrize("export", ["export", ".EXPORT_ALL_VARIABLES:"])
def test_nothing_of_ours_is_exported(host: Path, export: str) -> None:
    (host / "Makefile").write_text(f"{export}\nall: ; @env\ninclude scripts/mlflow.mk\n")
    assert not re.findall(r"(?m)^MLFLOW_.*", make(host, "all").stdout)


def test_every_target_has_a_script_and_is_phony_and_in_the_readme() -> None:
    names = [name for name, _ in TARGETS]
    assert len(names) == len(set(names)) >= 12
    phony = re.search(r"(?m)^MLFLOW_TARGETS := (.*)$", MK)
    assert phony
    assert [f"mlflow-{word}" for word in phony[1].split()] == names
    scripts = dict(re.findall(r"(?m)^(mlflow-\w+): ; @\$\(MLFLOW_RUN\) (\w+) ##", MK))
    assert list(scripts) == names
    for name, script in scripts.items():
        assert (ROOT / "scripts" / f"{script}.py").exists()
        assert script == name.removeprefix("mlflow-") or name == "mlflow-gc"  # gc is a module of Python
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\| `(mlflow-\w+)[^|]*` \|", readme) == names


def test_nothing_runs_while_make_reads_the_file() -> None:
    assert "$(shell" not in MK
    assert "!=" not in MK


def test_help_shows_every_target_and_setting(host: Path) -> None:
    (host / "Makefile").write_text("include scripts/mlflow.mk\n")
    shown = make(host, "-s", "mlflow-help", "MLFLOW_PRESET=gpu").stdout
    for name, text in TARGETS:
        said = text.replace("$(MLFLOW_DIR)", "scripts/").replace("$$", "$")
        assert re.search(rf"(?m)^  make {name} +{re.escape(said)}$", shown)
    assert re.search(r"(?m)^  MLFLOW_PRESET +gpu  \[make command line\]$", shown)


def test_help_says_where_the_pages_are(host: Path) -> None:
    """A copy has none of them: they are in the clone that it came from."""
    (host / "Makefile").write_text("include scripts/mlflow.mk\n")
    examples = "examples of every argument are in the comments of action.yaml"
    assert make(host, "-s", "mlflow-help").stdout.endswith(f"\nPages\n  {examples}\n")
    record = {"version": "1", "origin": "https://me:token@example.org/toolkit.git", "files": {}, "edits": []}
    (host / "scripts/installed.json").write_text(json.dumps(record))
    shown = make(host, "-s", "mlflow-help").stdout
    assert shown.endswith(
        f"\nPages\n  README.md and docs/ of https://example.org/toolkit.git; {examples}, too\n"
    )
    shown = make(ROOT, "-s", "mlflow-help").stdout
    assert f"README.md and docs/ of {ROOT}; " in shown
