"""The live flow as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings import layers, problems
from settings.action import compose
from settings.live import action_jobs, server_job

CALL = "action: ws:.mlflow/action.yaml"


@pytest.mark.parametrize(
    ("flow", "job"),
    [
        ("", "mlflow_server"),
        ("jobs:", "mlflow_server"),
        ("jobs: {train: {image: x}}", "mlflow_server"),
        ("jobs: {mlflow: {action: 'ws:.mlflow/action.yaml'}}", "mlflow"),
        ("jobs: {a: {action: 'ws:.mlflow/action'}}", "a"),
        ("jobs: {a: {action: 'gh:x/y@v1'}, b: {action: 'ws:.mlflow/action.yaml'}}", "b"),
        ("jobs: {mlflow_server: {action: 'gh:x/y@v1'}, b: {action: 'ws:.mlflow/action.yaml'}}", "b"),
        (
            "jobs: {b: {action: 'ws:.mlflow/action'}, mlflow_server: {action: 'ws:.mlflow/action'}}",
            "mlflow_server",
        ),
    ],
)
def test_the_server_is_the_job_that_calls_the_rendered_action(flow: str, job: str) -> None:
    assert server_job(compose(flow)) == job


def test_jobs_that_call_actions() -> None:
    found = action_jobs(compose("jobs:\n  a: {image: x}\n  b:\n    action: gh:o/r@v1\n    args: {x: y}\n"))
    [job] = found
    assert (job.name, job.action, job.call.start_mark.line) == ("b", "gh:o/r@v1", 3)


def test_a_server_of_another_name(workspace: Path) -> None:
    path = workspace / ".neuro/live.yaml"
    path.write_text(path.read_text().replace("mlflow_server:", "tracking:"))
    settings = layers.load()
    assert settings.job == "tracking"
    assert settings.inputs["artifacts_destination"].source.startswith(".neuro/live.yaml:")
    assert problems.problems(settings) == []


def test_two_that_might_be_the_server(workspace: Path) -> None:
    path = workspace / ".neuro/live.yaml"
    text = path.read_text().replace("mlflow_server:", "tracking:")
    path.write_text(text + f"\n  other:\n    {CALL}\n    args: {{}}\n")
    [problem] = problems.problems(layers.load())
    assert str(problem).startswith(
        ".neuro/live.yaml: tracking and other call ws:.mlflow/action.yaml: which of them is the server?; "
    )
    path.write_text(path.read_text().replace("  other:", "  mlflow_server:"))
    assert layers.load().job == "mlflow_server"
