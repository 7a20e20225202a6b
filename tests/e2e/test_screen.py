"""What somebody sees who types the targets: on 80 and 200 columns, without colours, and piped."""

from __future__ import annotations

import re

import pytest

from .conftest import Clone
from .screen import changing, on_terminal

pytestmark = pytest.mark.e2e

BESIDE = "\n  notebook:\n    action: gh:neuro-actions/jupyter@v1.0.1\n    args: {}\n"
"""A job whose action cannot be fetched: git gets no SSH."""
ORDER = ("mlflow-up", "mlflow-up", "mlflow-status", "mlflow-down")
SAID = ("MLflow is up: ", "MLflow was running already: ", "state     serving", "stopped job ")


@pytest.mark.parametrize(("width", "env"), [(80, {}), (200, {}), (80, {"NO_COLOR": "1"})], ids=str)
@pytest.mark.usefixtures("tables")
def test_up_status_and_down(clone: Clone, width: int, env: dict[str, str]) -> None:
    with (clone.path / ".neuro/live.yaml").open("a") as live:
        live.write(BESIDE)
    clone.env["GIT_SSH_COMMAND"] = "false"
    for target, said in zip(ORDER, SAID, strict=True):
        command = ["make", "-s", target, "MLFLOW_PLATFORM=local"]
        text, lines = on_terminal(command, width, clone.path, {**clone.env, **env})
        assert any(said in line for line in lines)
        assert max(map(len, lines)) <= 80, lines
        assert len(lines) <= 24
        assert "answers 503" not in text
        assert all(len(line) < width for line in changing(text))
        assert not (env and "\x1b" in text)
        if said == SAID[0]:
            first = next(number for number, line in enumerate(lines) if line.startswith(said))
            assert lines[first + 1].startswith('eval "$(make -s -f ')
            assert "starting: " in text or not changing(text)
    out, err = clone.local("mlflow-status", code=1)  # piped
    assert "\x1b" not in out + err
    assert out.startswith("state     not running\nlast      job-")
    assert max(map(len, out.splitlines())) <= 80


def test_the_settings(clone: Clone) -> None:
    long = "postgresql://me@database-server.example.org:5432/a_database_with_a_name_that_is_long"
    command = ["make", "-s", "mlflow-config", f"MLFLOW_BACKEND_STORE_URI={long}"]
    piped, _ = clone.make(*command[1:])
    table = piped.splitlines()
    assert re.match(r"SETTING +VALUE +SOURCE +INSTEAD OF$", table[0])
    assert max(map(len, table)) > 80
    _, wide = on_terminal(command, 250, clone.path, clone.env)
    assert wide == table
    _, narrow = on_terminal(command, 80, clone.path, clone.env)
    assert max(map(len, narrow)) <= 80, narrow
    assert "port                   5000  [action.yaml:" in "\n".join(narrow)
    assert long in "".join(line.strip() for line in narrow)
    names = [line.split()[0] for line in table[1:]]
    assert [line.split()[0] for line in narrow if line[0] != " "] == names
