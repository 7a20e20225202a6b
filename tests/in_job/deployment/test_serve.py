"""A registered model in a job of its own: found, given what it needs, tried, and served."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flow import program
from tests.in_job.harness import wait_for

from .conftest import LIGHTGBM, Deploy

pytestmark = pytest.mark.e2e
LINE = {"inputs": [[3.0], [5.0]]}


@pytest.mark.parametrize(
    ("model", "version", "slope"),
    [("models:/line/1", "1", 1), ("models:/line@champion", "2", 2), ("line", "4", 4)],
    ids=["version", "alias", "newest"],
)
def test_a_version_answers(deploy: Deploy, model: str, version: str, slope: int) -> None:
    fresh = version == "1"
    deployed = deploy(model, fresh=fresh)
    if fresh:  # which takes long enough to be asked before it answers
        wait_for(lambda: deployed.log.exists() and bool(deployed.lines), "its first line", 60)
        assert deployed.state["state"] == "starting"
        assert deployed.call("GET", "/ping")[0] == 503
        status, text = deployed.call("POST", "/invocations", LINE)
        assert status == 503
        assert "does not answer yet" in text
    deployed.wait_until_ready()
    assert deployed.predict(LINE)["predictions"] == pytest.approx([3 * slope, 5 * slope])
    state = deployed.state
    assert (state["model"], state["version"], state["uri"]) == ("line", version, f"models:/line/{version}")
    assert (state["state"], state["problem"], state["follow"]) == ("ready", "", False)
    assert state["flavors"] == ["sklearn"]
    assert state["model_id"].startswith("m-")
    if slope < 4:
        assert state["example"] == {"inputs": [[0.0], [1.0], [2.0]]}
        assert json.loads(state["signature"]["inputs"])[0]["type"] == "tensor"
        assert deployed.lines[-1].startswith(f"models:/line/{version} predicts its own input example")
    else:
        assert state["example"] is None
        assert deployed.lines[-1].startswith(f"models:/line/{version} is loaded")
    assert deployed.call("GET", "/version") == (200, "3.17.2")
    assert deployed.stop() == 0


def test_a_model_by_its_id_and_code_of_its_own(deploy: Deploy) -> None:
    own = deploy("models:/own/1", MLFLOW_DEPLOY_WORKERS="3").wait_until_ready()
    again = deploy(f"models:/{own.state['model_id']}").wait_until_ready()
    body = {"dataframe_split": {"columns": ["x"], "data": [[4], [5]]}}
    assert own.predict(body) == again.predict(body) == {"predictions": [8, 10]}
    assert again.state["version"] is None


def test_a_chat_streams_its_answer_where_it_is_asked_to(deploy: Deploy) -> None:
    chat = deploy("models:/chat/1").wait_until_ready()
    body = {"messages": [{"role": "user", "content": "one two three"}]}
    assert chat.predict(body)["choices"][0]["message"]["content"] == "ONE TWO THREE"
    for more, headers in (({"stream": True}, {}), ({}, {"Accept": "text/event-stream"})):
        status, text = chat.call("POST", "/invocations", {**body, **more}, **headers)
        assert status == 200
        *events, end, rest = text.split("\n\n")
        assert (end, rest) == ("data: [DONE]", "")
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["one", "two", "three"]
    assert chat.call("POST", "/invocations", {"messages": 5, "stream": True})[0] == 400


def test_what_the_image_lacks_is_installed_once(deploy: Deploy, registry: Path, tmp_path: Path) -> None:
    both = [
        deploy("models:/trees/1", fresh=one, MLFLOW_DEPLOY_WORKERS="1" if one else "3")
        for one in (True, False)
    ]
    expected = json.loads((registry / "trees.json").read_text())
    for deployed in both:
        deployed.wait_until_ready()
        for _ in range(10):
            assert deployed.predict({"inputs": [[0.0], [1.0], [2.0]]})["predictions"] == expected
    (folder,) = (tmp_path / "cache").iterdir()
    assert {path.name for path in folder.glob("*.dist-info")} == {f"{LIGHTGBM.replace('==', '-')}.dist-info"}
    again = deploy("models:/trees/1").wait_until_ready()
    assert f"taking {LIGHTGBM} from {folder}" in again.lines
    assert again.predict({"inputs": [[2.0]]})["predictions"] == expected[2:]


def test_an_environment_with_another_version_of_what_mlflow_imports(
    deploy: Deploy, processes: Callable[[int], list[int]]
) -> None:
    deployed = deploy("models:/older/1", fresh=True).wait_until_ready()
    assert deployed.predict(LINE)["predictions"] == ["0.5.3"]
    assert sum("models:/older/1: python_function" in line for line in deployed.lines) == 1
    (lead,) = [pid for pid in processes(deployed.process.pid) if processes(pid)]
    assert len(processes(lead)) == 1
    assert deployed.stop() == 0


@pytest.mark.parametrize(
    ("model", "env", "said"),
    [
        (
            "nobody",
            {},
            r"models:/nobody cannot be had from sqlite:.*Registered Model with name=nobody not found",
        ),
        ("line/77", {}, r"models:/line/77 cannot be had from .*version=77.* not found"),
        ("line@nobody", {}, r"models:/line@nobody cannot be had from .*alias nobody not found"),
        ("line/Staging", {}, r"the model line has no version in the stage Staging"),
        ("", {}, r"MLFLOW_DEPLOY_MODEL is empty: set it to"),
        (
            "wheel",
            {},
            r"requires no-such-package-at-all==9.9, which cannot be installed: .*; take an image that",
        ),
        ("line/3", {}, r"models:/line/3 does not predict its own input example: ValueError: no such colour"),
        ("lacks", {}, r'needs the module helping, .*extra_pip_requirements=\["helping"\], or take an image'),
        ("trees", {"ENV_MANAGER": "local"}, r"models:/trees/1 needs the module lightgbm, which neither"),
        ("line", {"ENV_MANAGER": "conda"}, r"MLFLOW_DEPLOY_ENV_MANAGER is 'conda': set it to uv or local"),
        ("line", {"WORKERS": "none"}, r"MLFLOW_DEPLOY_WORKERS is 'none': set it to a number of at least 1"),
        ("line", {"WORKERS": "nan"}, r"MLFLOW_DEPLOY_WORKERS is 'nan': set it to a number of at least 1"),
        ("line", {"PORT": "99999"}, r"port 99999 of \S+ cannot be opened: "),
        ("line", {"PATIENCE": "1"}, r"it has not answered within 1 s"),
        ("line", {"FOLLOW": "yes"}, r"models:/line has no alias to follow"),
        ("line@a", {"FOLLOW": "yes"}, r"set MLFLOW_TRACKING_URI to a server's http:// address"),
        ("trees", {"CACHE": "/proc/no"}, r"MLFLOW_DEPLOY_CACHE, /proc/no, cannot be written"),
    ],
)
def test_what_cannot_be_served_ends_the_job_with_one_line(
    deploy: Deploy, model: str, env: dict[str, str], said: str
) -> None:
    fresh = "PATIENCE" in env  # a fork of the process that has MLflow may answer within the second
    deployed = deploy(model, fresh=fresh, **{f"MLFLOW_DEPLOY_{name}": value for name, value in env.items()})
    assert deployed.process.wait(200) == 1
    text = deployed.log.read_text("utf-8")
    assert deployed.lines, text
    assert re.search(said, deployed.lines[-1]), text


def test_where_a_process_with_mlflow_cannot_fork_each_imports_it(
    deploy: Deploy, processes: Callable[[int], list[int]]
) -> None:
    here, there = "FORKS~=~sys.platform~==~", f'"{sys.platform}"'
    code = {
        name: text.replace(here + there, f'{here}"another"')
        for name, text in program.variables("deployment.serve").items()
    }
    assert code != program.variables("deployment.serve")
    deployed = deploy("models:/line/1", fresh=True, **code, MLFLOW_DEPLOY_WORKERS="2").wait_until_ready()
    first = deployed.process.pid
    wait_for(lambda: any(len(processes(pid)) == 2 for pid in processes(first)), "two processes", 60)
    lead = next(pid for pid in processes(first) if processes(pid))  # who answered meanwhile has none below
    workers = processes(lead)
    assert deployed.predict(LINE)["predictions"] == pytest.approx([3, 5])
    wait_for(lambda: all("sklearn" in Path(f"/proc/{pid}/maps").read_text() for pid in workers), "both", 60)
    assert "numpy" not in Path(f"/proc/{lead}/maps").read_text()


def test_a_process_that_ends_is_replaced(deploy: Deploy, processes: Callable[[int], list[int]]) -> None:
    deployed = deploy("models:/line/1").wait_until_ready()
    leaf = processes(deployed.process.pid)[-1]
    os.kill(leaf, signal.SIGKILL)
    wait_for(lambda: any("another one is started" in line for line in deployed.lines), "its words", 60)
    deployed.wait_until_ready()
    assert deployed.predict(LINE)["predictions"] == pytest.approx([3, 5])
