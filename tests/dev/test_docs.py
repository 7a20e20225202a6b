"""The generated reference, and what `make lint` finds in the action."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from dev import docs
from settings import action
from tests.conftest import ROOT

TEXT = (ROOT / "action.yaml").read_text(encoding="utf-8")
ARGUMENTS = (ROOT / docs.ARGUMENTS).read_text(encoding="utf-8")


def test_every_input_has_a_section_with_an_example() -> None:
    reference = docs.reference(TEXT)
    sections = dict(re.findall(r"(?ms)^## `(\w+)`\n\n(.*?)(?=^## |\Z)", reference))
    assert list(sections) == list(action.read_inputs(TEXT))
    assert all("```yaml\n" in section for section in sections.values())
    assert reference in ARGUMENTS


@pytest.mark.parametrize("name", docs.examples(TEXT))
def test_an_example_names_inputs_only(name: str) -> None:
    example = yaml.safe_load(docs.examples(TEXT)[name])
    args = example["jobs"].get("mlflow_server", {}).get("args", {}) if "jobs" in example else example
    assert set(args) <= set(action.read_inputs(TEXT))


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("${{ inputs.prot }}", "prot"),
        ('${{ "}}" if inputs.prot else "" }}', "prot"),
        ("a ${{ inputs.port }} b ${{ lower(inputs . prot) }}", "prot"),
        ("$[[ inputs.prot ]]", "prot"),
    ],
)
def test_an_undefined_input_is_found(expression: str, name: str) -> None:
    changed = TEXT.replace("  title: MLflow server\n", f"  title: {expression!r}\n")
    [line] = docs.undefined_inputs(changed)
    number = changed.splitlines().index(f"  title: {expression!r}") + 1
    assert (
        line
        == f"action.yaml:{number}: inputs.{name} is not an input of the action: did you mean inputs.port?"
    )


def test_text_that_looks_like_an_input_is_none() -> None:
    text = """  title: ${{ "inputs.none" }} inputs.none\n"""
    assert docs.undefined_inputs(TEXT.replace("  title: MLflow server\n", text)) == []
    assert docs.undefined_inputs(TEXT) == []


def test_lint_fails_on_a_stale_reference_and_on_an_undefined_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "action.yaml").write_text(TEXT.replace("inputs.preset", "inputs.presets"), encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / docs.SETTINGS).write_bytes((ROOT / docs.SETTINGS).read_bytes())
    (tmp_path / docs.ARGUMENTS).write_text(ARGUMENTS.replace("cpu-medium", "cpu-other"), encoding="utf-8")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 1
    said = capsys.readouterr().out
    assert "docs/arguments.md is stale: run `make docs`" in said
    assert "inputs.presets is not an input of the action: did you mean inputs.preset?" in said
