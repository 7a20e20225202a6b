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
DEPLOY = (ROOT / "deploy.yaml").read_text(encoding="utf-8")
ARGUMENTS, DEPLOYMENTS = (
    (ROOT / page).read_text(encoding="utf-8") for page in (docs.ARGUMENTS, docs.DEPLOYMENTS)
)


@pytest.mark.parametrize(("text", "level", "page"), [(TEXT, "##", ARGUMENTS), (DEPLOY, "###", DEPLOYMENTS)])
def test_every_input_has_a_section_with_an_example(text: str, level: str, page: str) -> None:
    reference = docs.reference(text, level)
    sections = dict(re.findall(rf"(?ms)^{level} `(\w+)`\n\n(.*?)(?=^{level} |\Z)", reference))
    assert list(sections) == list(action.read_inputs(text))
    assert all("```yaml\n" in section for section in sections.values())
    assert reference in page


@pytest.mark.parametrize(
    ("text", "name"), [(text, name) for text in (TEXT, DEPLOY) for name in docs.examples(text)]
)
def test_an_example_names_inputs_only(text: str, name: str) -> None:
    example = yaml.safe_load(docs.examples(text)[name])
    job = "mlflow_server" if text == TEXT else "mlflow_model"
    args = example["jobs"].get(job, {}).get("args", {}) if "jobs" in example else example
    assert set(args) <= set(action.read_inputs(text))


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
    (tmp_path / "deploy.yaml").write_text(DEPLOY, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    for page in (docs.SETTINGS, docs.DEPLOYMENTS):
        (tmp_path / page).write_bytes((ROOT / page).read_bytes())
    (tmp_path / docs.ARGUMENTS).write_text(ARGUMENTS.replace("cpu-medium", "cpu-other"), encoding="utf-8")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 1
    said = capsys.readouterr().out
    assert "docs/arguments.md is stale: run `make docs`" in said
    assert "inputs.presets is not an input of the action: did you mean inputs.preset?" in said
