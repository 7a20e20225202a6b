"""A deployment that follows an alias: the version that it moves to is started beside the one that serves."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from in_job.deployment import following
from in_job.deployment.following import require_answer
from in_job.words import Problem
from tests.in_job.harness import StartServer, free_port, wait_for

from .conftest import Deploy

LINE = {"inputs": [[3.0]]}


@pytest.mark.e2e
def test_traffic_moves_with_the_alias_when_the_new_version_answers(
    deploy: Deploy, start: StartServer, registry: Path, tmp_path: Path
) -> None:
    shutil.copyfile(registry / "mlflow.db", tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    server = start(registry / "artifacts", MLFLOW_BACKEND_STORE_URI=uri).wait_until_up()
    following = {"MLFLOW_DEPLOY_FOLLOW": "yes", "MLFLOW_DEPLOY_FOLLOW_EVERY": "0.3"}
    address = f"http://127.0.0.1:{server.port}"
    deployed = deploy("line@champion", MLFLOW_TRACKING_URI=address, **following).wait_until_ready()

    def move(version: str) -> None:
        body = {"name": "line", "alias": "champion", "version": version}
        server.ask("POST", "/registered-models/alias", body)

    def wait_for_words(words: str) -> None:
        wait_for(lambda: any(words in line for line in deployed.lines), words, 120)

    found: list[tuple[int, str]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.02):
            found.append(deployed.call("POST", "/invocations", LINE))

    client = threading.Thread(target=ask)
    client.start()
    try:
        move("3")
        wait_for_words(
            "models:/line/3 does not answer: models:/line/3 does not predict its own input example"
        )
        state: dict[str, Any] = deployed.state
        assert (state["version"], state["state"], state["follow"]) == ("2", "ready", True)
        assert "no such colour; models:/line/2 goes on serving" in state["problem"]
        move("4")
        wait_for_words("models:/line/4 is loaded, and answers on port")
        state = deployed.state
        assert (state["version"], state["problem"], state["step"]) == ("4", "", "")
        wait_for(lambda: json.loads(found[-1][1])["predictions"][0] > 11, "the new version", 60)
    finally:
        done.set()
        client.join()
    assert {status for status, _ in found} == {200}
    assert sum("is version 3 now" in line for line in deployed.lines) == 1, "it is tried once"
    server.ask("DELETE", "/registered-models/alias", {"name": "line", "alias": "champion"})
    wait_for(lambda: "alias champion not found" in deployed.state["problem"], "the problem", 60)
    move("4")
    wait_for(lambda: deployed.state["problem"] == "", "no problem", 60)
    server.stop()
    wait_for(
        lambda: "does not say where the alias champion of line is" in deployed.state["problem"],
        "the problem",
        60,
    )
    assert deployed.predict(LINE)["predictions"] == pytest.approx([12])
    assert deployed.stop() == 0


@pytest.mark.parametrize(("listens", "said"), [(False, "Connection refused"), (True, "timed out")])
def test_a_server_that_does_not_answer_is_waited_for_for_seconds(
    listens: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "WAIT", 0.2)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with socket.socket() as silent:
        if listens:
            silent.bind(("127.0.0.1", port))
            silent.listen()
        with pytest.raises(Problem, match=f"^{address}, where the model is registered, .*: .*{said}; look"):
            require_answer({"MLFLOW_TRACKING_URI": address})
    require_answer({"MLFLOW_TRACKING_URI": "sqlite:///anything"})


@pytest.mark.e2e
def test_a_job_without_its_server_ends_with_one_line(deploy: Deploy) -> None:
    deployed = deploy("line", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert deployed.process.wait(60) == 1
    (line,) = deployed.log.read_text("utf-8").splitlines()
    assert "does not answer: [Errno 111] Connection refused; look whether it runs" in line
