"""Substitution into action.yaml."""

from __future__ import annotations

import ast
import stat
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from settings import action
from tests.conftest import ROOT

TEXT = (ROOT / "action.yaml").read_text(encoding="utf-8")
INPUTS = action.read_inputs(TEXT)
AWKWARD = [
    "",
    " ",
    "a b",
    "p$x",
    "${{ inputs.port }}",
    "$[[ x ]]",
    "}}",
    "'",
    '"',
    "\\",
    "\\n",
    "a\nb",
    "é",
    "😀",
    "#: -",
]


def test_no_override_leaves_every_byte() -> None:
    assert action.render(TEXT, {}) == TEXT


def test_inputs_are_those_that_the_reference_promises() -> None:
    assert {name: entry.default for name, entry in INPUTS.items()} == {
        "mode": "server",
        "artifacts_destination": None,
        "backend_store_uri": "",
        "volumes": "[]",
        "envs": "{}",
        "http_auth": "False",
        "life_span": "10d",
        "port": "5000",
        "job_name": "",
        "preset": "",
        "extra_params": "",
        "image": "ghcr.io/mlflow/mlflow:v3.17.2-full",
        "restart": "never",
        "backup_every": "",
        "browse": "False",
    }
    assert all(entry.description for entry in INPUTS.values())


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_is_used_and_an_override_replaces_it_everywhere(name: str) -> None:
    assert f"inputs.{name}" in TEXT
    rendered = action.render(TEXT, {name: "7"})
    assert f"inputs.{name}" not in rendered
    assert action.read_inputs(rendered)[name].default == "7"
    others = {n: e.default for n, e in INPUTS.items() if n != name}
    assert {n: e.default for n, e in action.read_inputs(rendered).items() if n != name} == others


def test_every_input_that_the_job_names_exists() -> None:
    job = yaml.safe_load(TEXT)["job"]
    for name in action._INPUT.findall(str(job)):
        assert not name[1] or name[1] in INPUTS


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(AWKWARD))
def test_any_text_survives_as_a_literal_of_both_languages(text: str) -> None:
    literal = action.literal(text)
    assert ast.literal_eval(literal) == text
    assert yaml.safe_load(literal) == text
    assert literal.isascii()
    assert not {"'", "{", "}", "$", "#", "\n", " "} & set(literal)


@pytest.mark.parametrize("value", AWKWARD)
def test_awkward_values_keep_the_file_valid(value: str) -> None:
    rendered = action.render(TEXT, dict.fromkeys(INPUTS, value))
    expected = "" if "${{" in value or "$[[" in value else value
    assert {e.default for e in action.read_inputs(rendered).values()} == {expected}
    assert action.literal(value) in yaml.safe_load(rendered)["job"]["env"]


def test_text_in_a_string_of_an_expression_is_left_alone() -> None:
    job = '${{ {\'inputs.a\': inputs.a, "k": "}} inputs.a"} }}'
    text = f"inputs:\n  a:\n    descr: x\njob:\n  env: >-\n    {job}\n"
    assert '{\'inputs.a\': "v", "k": "}} inputs.a"}' in action.render(text, {"a": "v"})


def test_unknown_override() -> None:
    with pytest.raises(KeyError):
        action.render(TEXT, {"nothing": "x"})


def test_rendered_file_is_private_whole_and_the_same_each_time(workspace: Path) -> None:
    first = action.write_rendered(TEXT, {"port": "7000"}).read_bytes()
    assert action.write_rendered(TEXT, {"port": "7000"}).read_bytes() == first
    assert stat.S_IMODE(action.RENDERED.stat().st_mode) == 0o600
    assert [path.name for path in (workspace / ".mlflow").iterdir()] == ["action.yaml"]


def test_a_failed_write_leaves_the_old_file(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    action.write_rendered(TEXT, {})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        action.write_rendered(TEXT, {"port": "7000"})
    assert action.RENDERED.read_text(encoding="utf-8") == TEXT
    assert [path.name for path in (workspace / ".mlflow").iterdir()] == ["action.yaml"]
