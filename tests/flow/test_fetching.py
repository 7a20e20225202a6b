"""The `gh:` actions of a flow that git cannot fetch."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow import fetching

SAID = "ERROR: Command '['git', 'clone']' returned non-zero exit status 128."
FOLDER = Path(".neuro")


@pytest.fixture
def unreachable(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the flow calls; git reaches nothing."""
    monkeypatch.setenv("GIT_SSH_COMMAND", "false")
    calls = ["gh:a/b@v1", "gh:c/d@v2"]
    with (workspace / ".neuro/live.yaml").open("a") as live:
        live.write(f"\n  x:\n    action: {calls[0]}\n    args: {{}}\n")
        live.write(f"  y: {{action: '{calls[1]}', args: {{}}}}\n  # action: gh:e/f@v3\n")
    return calls


def test_each_is_named_with_its_line_where_neuro_flow_fails(unreachable: list[str]) -> None:
    found = list(map(str, fetching.explained(FOLDER, SAID)))
    lines = Path(".neuro/live.yaml").read_text().splitlines()
    assert len(found) == 2
    for said, call in zip(found, unreachable, strict=True):
        number = next(n for n, line in enumerate(lines, 1) if call in line)
        assert said.startswith(f".neuro/live.yaml:{number}: git cannot fetch {call} (")
        assert "over SSH: add a key to your GitHub account" in said


def test_one_short_warning_for_a_check(unreachable: list[str]) -> None:
    [problem] = fetching.warnings(FOLDER)
    assert problem.warning
    assert "git cannot fetch gh:a/b@v1, gh:c/d@v2; " in str(problem)
    assert len(str(problem)) < 120


@pytest.mark.parametrize("said", ["", "ERROR: Required input(s): a", "legit but non-zero exit status 1"])
def test_other_failures_are_left_alone(unreachable: list[str], said: str) -> None:
    assert fetching.explained(FOLDER, said) == []
