"""What is read off neuro-flow and the flow's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow import submission
from flow.workspace import tags


def test_dry_run_line() -> None:
    found = submission.parse_dry_run(
        "apolo run --name=x --http-port=5000 --no-http-auth --env=A=b=c '--env=B=d e\nf'"
        " --volume=storage:a:/a:rw --tag=t --life-span=60s image:1 -- python3 -uc 'print(1)'"
    )
    assert found.options == {"name": "x", "http-port": "5000", "no-http-auth": "", "life-span": "60s"}
    assert found.env == {"A": "b=c", "B": "d e\nf"}
    assert found.volumes == ["storage:a:/a:rw"]
    assert found.image == "image:1"


@pytest.mark.parametrize("line", ["", "neuro run x", "apolo run --name=x"])
def test_not_a_dry_run_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"apolo run line|no image"):
        submission.parse_dry_run(line)


def test_tags(workspace: Path) -> None:
    assert tags("mlflow_server") == {"project:mlflow", "flow:live", "job:mlflow-server"}
    (workspace / ".neuro/project.yml").unlink()
    (workspace / ".neuro/live.yaml").write_text("kind: live\nid: My_Flow\n")
    assert tags("a") == {"project:my project", "flow:my-flow", "job:a"}
