"""Mistakes that are found before a job starts."""

from __future__ import annotations

from pathlib import Path

import pytest

import check
import settings
from console import Failure

GOOD = {
    "mode": ["server", "UI"],
    "http_auth": ["True", "false"],
    "port": ["1", "65535"],
    "life_span": ["1m", "1d2h3m"],
    "job_name": ["abc", "a-1b"],
    "volumes": ["[]", '["storage:a:/a:rw"]'],
    "envs": ["{}", '{"A": "b"}'],
    "extra_params": ["--workers 2 'a b'"],
    "platform": ["local"],
    "timeout": ["5s"],
    "restart": ["on-failure"],
}
BAD = {
    "mode": ["servers"],
    "artifacts_destination": [""],
    "http_auth": ["yes", "1"],
    "port": ["", "0", "65536", "abc", "-1", "5e3", "999999"],
    "life_span": ["", "forever", "30s", "0", "10"],
    "job_name": ["ab", "Bad_Name", "a--b", "-ab", "a" * 41, "abc-"],
    "volumes": ["storage:a:/a:rw", "{}", "[1]", "["],
    "envs": ["[]", '{"A": 1}', "A=b"],
    "extra_params": ["--workers '2"],
    "platform": ["mars"],
    "timeout": ["0s", "soon"],
    "restart": ["sometimes"],
    "browse": ["maybe"],
}


def _problems(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> list[str]:
    variable = f"MLFLOW_{name.upper()}"
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("MAKEFLAGS", " -- " + f"{variable}={value}".replace("\\", "\\\\").replace(" ", "\\ "))
    return [str(problem) for problem in check.problems(settings.load())]


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in GOOD.items() for v in values])
def test_good_values(workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert _problems(monkeypatch, name, value) == []


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_bad_values(workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    [problem] = _problems(monkeypatch, name, value)
    assert problem.startswith(f"make command line: {name} is {value!r}; ")


def test_all_problems_at_once(workspace: Path) -> None:
    (workspace / "mlflow.yaml").write_text("port: x\nmode: y\nnonsense: z\n")
    with pytest.raises(Failure) as caught:
        check.require(settings.load())
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (None, "there is no live flow here"),
        ("kind: live\njobs: {}\n", "no job mlflow_server"),
        (
            "jobs:\n  mlflow_server:\n    action: ws:other\n    args: {}\n",
            ":3: the action of mlflow_server is ws:other",
        ),
        ("jobs:\n  mlflow_server:\n    args: {}\n", ":3: the action of mlflow_server is none"),
        ("jobs:\n  mlflow_server:\n    action: ws:.mlflow/action.yaml\n", ":3: mlflow_server has no args"),
        ("jobs: [\n", "not YAML"),
    ],
)
def test_mistakes_in_the_flow(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, flow: str | None, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "/mnt/a")
    live = workspace / ".neuro/live.yaml"
    live.unlink() if flow is None else live.write_text(flow)
    [problem] = map(str, check.problems(settings.load()))
    assert message in problem
