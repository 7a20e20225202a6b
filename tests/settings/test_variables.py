"""Variables of targets: which target takes which, and what is yes and no."""

from __future__ import annotations

import re

import pytest
import yaml

from common.console import Failure
from settings import variables
from tests.conftest import ROOT

TARGETS = re.findall(r"(?m)^mlflow-(\w+):", (ROOT / "scripts/mlflow.mk").read_text())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variable", variables.OF_TARGETS)
def test_a_variable_that_a_target_would_ignore_is_refused(
    monkeypatch: pytest.MonkeyPatch, target: str, variable: str
) -> None:
    monkeypatch.setenv("MLFLOW_GOALS", f"mlflow-{target}")
    monkeypatch.setenv("MAKEFLAGS", f" -- {variable}=x")
    found = list(variables.stray(target))
    if target in variables.OF_TARGETS[variable]:
        assert found == []
        return
    [problem] = found
    assert str(problem).startswith(f"make command line: mlflow-{target} does not take {variable}; ")
    assert not problem.warning
    monkeypatch.setenv("MAKELEVEL", "2")
    assert [problem.warning for problem in variables.stray(target)] == [True]


def test_every_target_of_the_table_is_there() -> None:
    assert {target for takers in variables.OF_TARGETS.values() for target in takers} <= {*TARGETS}


@pytest.mark.parametrize(
    ("goals", "words", "found"),
    [
        ("mlflow-backup mlflow-gc", "OLDER_THAN=30d MLFLOW_FORCE=yes", []),
        ("mlflow-backup release", "FROM=x", []),  # it is for theirs
        ("mlflow-backup release", "MLFLOW_FOLLOW=x", ["MLFLOW_FOLLOW"]),
        ("mlflow-backup", "BY=x OLDER_THAN=y TO=z", ["BY", "OLDER_THAN"]),
    ],
)
def test_goals_beside(monkeypatch: pytest.MonkeyPatch, goals: str, words: str, found: list[str]) -> None:
    monkeypatch.setenv("MLFLOW_GOALS", goals)
    monkeypatch.setenv("MAKEFLAGS", f" -- {words}")
    assert [str(problem).split(";")[0].split()[-1] for problem in variables.stray("backup")] == found


@pytest.mark.parametrize(
    ("goals", "words", "found"),
    [
        ("mlflow-down", "DRY_RUN=yes", "DRY_RUN is not a setting; did you mean MLFLOW_DRY_RUN?"),
        ("mlflow-down", "MLFLOW_DRYRUN=yes", "MLFLOW_DRYRUN is not a setting; did you mean MLFLOW_DRY_RUN?"),
        ("mlflow-down", "mlflow_dry_run=1", "mlflow_dry_run is not a setting; did you mean MLFLOW_DRY_RUN?"),
        ("mlflow-gc", "FORCE=yes", "FORCE is not a setting; did you mean MLFLOW_FORCE?"),
        ("mlflow-extend", "by=2d", "by is not a setting; did you mean BY?"),
        ("mlflow-extend", "MLFLOW_BY=2d", "MLFLOW_BY is not a setting; did you mean BY?"),
        ("mlflow-deploy release", "DRY_RUN=yes", ""),  # it is for theirs
        ("mlflow-down", "DRY=yes", ""),
    ],
)
def test_names_that_are_near(monkeypatch: pytest.MonkeyPatch, goals: str, words: str, found: str) -> None:
    monkeypatch.setenv("MLFLOW_GOALS", goals)
    monkeypatch.setenv("MAKEFLAGS", f" -- {words}")
    problems = [problem for problem in variables.misspelt(["port", "life_span"]) if not problem.warning]
    assert [f"{problem.what}; {problem.fix}" for problem in problems] == ([found] if found else [])


@pytest.mark.parametrize(
    ("target", "variable", "meant"),
    [("logs", "FOLLOW", "MLFLOW_FOLLOW"), ("deploy", "MLFLOW_FOLLOW", "FOLLOW")],
)
def test_two_that_differ_by_their_beginning(
    monkeypatch: pytest.MonkeyPatch, target: str, variable: str, meant: str
) -> None:
    monkeypatch.setenv("MAKEFLAGS", f" -- {variable}=no")
    [problem] = variables.stray(target)
    assert problem.fix == f"did you mean {meant}?"


def test_the_environment_is_no_business_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM", "somebody else's")
    assert list(variables.stray("upgrade")) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, True) for word in ("yes", "YES", "true", "on", "1")),
        *((word, False) for word in ("no", "False", "off", "0")),
        ("", True),  # not set
    ],
)
def test_yes(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv("MLFLOW_FOLLOW", text)
    assert variables.yes("MLFLOW_FOLLOW", default=True) is value


def test_neither_yes_nor_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_FORCE", "maybe")
    with pytest.raises(Failure, match="environment MLFLOW_FORCE: MLFLOW_FORCE is 'maybe'; write yes or no"):
        variables.yes("MLFLOW_FORCE")


def test_the_readme_and_the_action_have_the_same_words() -> None:
    [said] = re.findall(r"For true and false, (.*) will do, in any letter", (ROOT / "README.md").read_text())
    written = re.findall(r"`(\w+)`", said)
    assert ["true", *written[::2]] == list(variables.TRUE)
    assert ["false", *written[1::2], ""] == list(variables.FALSE)
    job = yaml.safe_load((ROOT / "action.yaml").read_text())["job"]
    for words in (variables.TRUE, variables.FALSE):
        listed = "[" + ", ".join(f'"{word}"' for word in words) + "]"
        assert listed in job["http_auth"]
    assert "[" + ", ".join(f'"{word}"' for word in variables.TRUE) + "]" in job["browse"]
