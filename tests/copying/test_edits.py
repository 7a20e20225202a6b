"""Lines added to a Makefile, .gitignore and live.yaml, and taken out again to the byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from copying import edits
from settings.action import compose, find
from tests.conftest import ROOT

BLOCK = (
    "kind: live\n\nvolumes:\n  data:\n    remote: storage:x\n    mount: /x\n\njobs:\n  train:\n    image: x\n"
)
FLOWS = {
    "blocks": BLOCK,
    "no volumes": "kind: live\n# one\n\n# two\njobs:   # three\n\n  # four\n  train:\n    image: x\n",
    "wide": re.sub(r"(?m)^( +)", r"\1\1", BLOCK),
    "CRLF": BLOCK.replace("\n", "\r\n"),
    "no newline at the end": BLOCK.rstrip(),
    "BOM": "\ufeff" + BLOCK,
    "no jobs": "kind: live\n",
    "no jobs and no newline": "kind: live",
    "empty jobs": "kind: live\njobs:\nvolumes: # none yet\n",
    "empty jobs at the end": "kind: live\njobs:",
    "braces": "kind: live\njobs: {}\n",
    "braces, CRLF, no newline": "kind: live\r\njobs: {}",
    "full braces": "kind: live\njobs: {a: {image: x}, }\nvolumes: { d: {remote: storage:d, mount: /d},\n }\n",
    "JSON": '{"kind": "live", "jobs": {"a": {"image": "x"}}}\n',
    "anchors": "kind: live\nvolumes: &v\n  d: &d\n    remote: storage:x\n    mount: /x\n  e: *d\n"
    "jobs: &j\n  a: &a {image: x}\n  b: *a\n",
    "indented": "  kind: live\n  jobs:\n     a: {image: x}\n",
    "block scalars": "kind: live\njobs:\n  a:\n    image: x\n    bash: |+\n      # no comment\n\n\n"
    "volumes:\n  # x\n  d: {remote: 'storage:x', mount: /x}\n",
    "document start": "# yaml-language-server: $schema=x\n---\nkind: live\njobs:\n  a: {image: x}\n",
    "not ASCII": "kind: live\ntitle: 'é😀\u2028x'\njobs:\n  a:\n    image: é\n",
    "quoted over lines": 'kind: live\ntitle: "x\n  # y"\njobs: {}\n',
    "quoted keys": "'kind': live\n\"jobs\":\n  'a':\n    image: x\n",
    "ours": edits.NEW_FLOW,
}
REFUSED = {
    "not YAML": ("kind: live\njobs: [\n", yaml.YAMLError, "line 3|line 2"),
    "tabs": ("kind: live\njobs:\n\ta: 1\n", yaml.YAMLError, "line 3|line 2"),
    "nothing": ("# nothing yet\n", edits.NotEditableError, "not a live flow"),
    "a list": ("- a\n", edits.NotEditableError, "not a live flow"),
    "jobs a list": ("kind: live\njobs: []\n", edits.NotEditableError, "jobs is not a mapping"),
    "jobs null": ("kind: live\njobs: ~\n", edits.NotEditableError, "jobs is not a mapping"),
    "alias": ("v: &v {}\nkind: live\njobs: *v\n", edits.NotEditableError, "jobs is an alias"),
    "used elsewhere": ("jobs: &v\n  a: 1\nx: *v\n", edits.NotEditableError, "changes nothing else"),
    "complex keys": ("kind: live\n? jobs\n: a: {image: x}\n", edits.NotEditableError, "middle of a line"),
    "document end": ("kind: live\n...\n", edits.NotEditableError, "changes nothing else"),
    "job": (
        BLOCK.replace("train", "mlflow_server"),
        edits.NotEditableError,
        "jobs has mlflow_server already",
    ),
    "volume": (BLOCK.replace("data", "mlflow"), edits.NotEditableError, "volumes has mlflow already"),
}


def is_subsequence(text: str, of: str) -> bool:
    """Tell whether every character of a text is in another one, in order."""
    rest = iter(of)
    return all(char in rest for char in text)


@pytest.mark.parametrize("text", FLOWS.values(), ids=FLOWS)
def test_a_flow_gets_our_parts_and_loses_them_again(text: str) -> None:
    new, pieces = edits.add_to_flow(text)
    loaded = yaml.safe_load(new)
    before = yaml.safe_load(text)
    for section, added in edits.ADDED.items():
        assert {name: loaded[section].pop(name) for name in added} == added
        assert loaded.pop(section) == ((before or {}).pop(section, None) or {})
    assert loaded == before
    assert is_subsequence(text, new)
    assert len(new) == len(text) + sum(map(len, pieces))
    assert ("\r\n" in new) == ("\r\n" in text)
    assert edits.take_out_of_flow(new, pieces) == (text, {})


@pytest.mark.parametrize(("text", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_a_flow_that_has_no_place_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        edits.add_to_flow(text)


def test_every_name_that_is_taken_is_said_at_once() -> None:
    text = BLOCK.replace("train", "mlflow_server").replace("data", "mlflow")
    with pytest.raises(edits.NotEditableError) as raised:
        edits.add_to_flow(text)
    assert [line for _, _, line in raised.value.reasons] == [4, 9]


@pytest.mark.parametrize("text", FLOWS.values(), ids=FLOWS)
def test_what_the_user_did_elsewhere_stays(text: str) -> None:
    new, pieces = edits.add_to_flow(text)
    for old, edit in (("kind:", "# edited\nkind:"), ("image: x", "image: 'y'")):
        if new.startswith(("{", "  ")):
            continue
        got, stayed = edits.take_out_of_flow(new.replace(old, edit), pieces)
        assert (got, stayed) == (text.replace(old, edit), {})


def test_other_line_endings_and_entries_beside_ours() -> None:
    text = "kind: live\njobs:\n  a: {image: x}\n"
    new, pieces = edits.add_to_flow(text)
    crlf = new.replace("\n", "\r\n")
    assert edits.take_out_of_flow(crlf, pieces) == (text.replace("\n", "\r\n"), {})
    mine = (
        "    mount: /mnt/mlflow\n",
        "    mount: /mnt/mlflow\n  mine:\n    remote: storage:m\n    mount: /m\n",
    )
    got, stayed = edits.take_out_of_flow(new.replace(*mine), pieces)
    assert stayed == {}
    assert got == text.replace("jobs", "volumes:\n  mine:\n    remote: storage:m\n    mount: /m\n\njobs")
    flow = "kind: live\njobs: {}\n"
    new, pieces = edits.add_to_flow(flow)
    assert new.count("}}}\n") == 1
    added = new.replace("}}}\n", "}}, a: {image: x}}\n")
    assert edits.take_out_of_flow(added, pieces) == ("kind: live\njobs: {a: {image: x}}\n", {})


@pytest.mark.parametrize("text", [BLOCK, "kind: live\njobs: {}\n"])
def test_a_job_that_was_edited_stays_with_its_volume(text: str) -> None:
    new, pieces = edits.add_to_flow(text)
    edited = new.replace("/artifacts", "/elsewhere")
    edited = edited.replace("kind: live", "kind: live\ntitle: mlflow_server and mlflow")
    got, stayed = edits.take_out_of_flow(edited, pieces)
    inline = ["mlflow_model", "mlflow_models"] if "{" in text else []  # all of a section in one line
    assert sorted(stayed) == sorted(["mlflow_server", "mlflow", *inline])
    flow = yaml.safe_load(got)
    for section, added in edits.ADDED.items():
        assert [name for name in flow[section] if name in added] == [name for name in added if name in stayed]
    for name, line in stayed.items():
        assert f"{name}" in got.splitlines()[line - 1]
    for section in edits.ADDED:
        for name in edits.ADDED[section].keys() & stayed.keys():
            assert flow[section][name] == yaml.safe_load(edited)[section][name]
    without = edits.take_out_of_flow(new, pieces)[0]
    assert edits.take_out_of_flow(without, pieces) == (without, {})  # the user had done it already


def test_what_a_flow_gets_is_what_the_example_has() -> None:
    example_flow = yaml.safe_load((ROOT / ".neuro/live.yaml").read_text(encoding="utf-8"))
    for name, job in edits.ADDED["jobs"].items():
        assert example_flow["jobs"][name] == job
    for name, volume in edits.ADDED["volumes"].items():
        assert example_flow["volumes"][name]["mount"] == volume["mount"]
    flow = compose(edits.add_to_flow(edits.NEW_FLOW)[0])
    assert find(flow, "jobs", "mlflow_server", "args") is not None


def test_a_flow_of_an_older_copy_had_one_job_and_one_volume() -> None:
    text = "kind: live\njobs:\n  a: {image: x}\n"
    with pytest.MonkeyPatch.context() as patch:
        older = {section: dict(list(added.items())[:1]) for section, added in edits.ADDED.items()}
        patch.setattr(edits, "ADDED", older)
        new, pieces = edits.add_to_flow(text)
    assert edits.names_missing(new, pieces) == []
    assert edits.take_out_of_flow(new, pieces) == (text, {})
    with_model = new + "  mlflow_model:\n    action: ws:.mlflow/deploy.yaml\n    args: {}\n"
    assert edits.take_out_of_flow(with_model, pieces) == (
        text + "  mlflow_model:\n    action: ws:.mlflow/deploy.yaml\n    args: {}\n",
        {},
    )


@given(st.text(st.sampled_from("ab \\#\t\r\n"), max_size=12))
@example("all:")
@example("all: a \\")
@example("all: a \\\r\n")
@example("all: a \\\\\n")
def test_a_line_at_the_end(text: str) -> None:
    line = "include x/mlflow.mk"
    new, added = edits.add_line(text, line)
    assert new == text + added
    assert edits.take_out(new, added) == text
    assert line in re.split(r"(?<!\\)\r?\n", re.sub(r"\\\\", "", new))  # not taken in by the line before
    assert new.endswith("\n") == (text.endswith("\n") or not text)


def test_a_line_is_taken_out_wherever_it_is() -> None:
    line = "include x/mlflow.mk"
    for text in ("all:", "all:\n", "all:\r\n", "all: \\"):
        new, added = edits.add_line(text, line)
        got = edits.take_out(new + ("" if new.endswith("\n") else "\n") + "more:\n", added)
        assert got is not None
        assert line not in got
        assert got.startswith(text)
        assert got.endswith("\nmore:\n")
    new, added = edits.add_line("all:\n", line)
    assert edits.take_out(new.replace(line, f"{line}2"), added) is None
    assert edits.take_out(new.replace(line, f"# {line}"), added) is None
    assert edits.take_out("all:\n", added) is None


def test_bytes_of_any_encoding_pass(tmp_path: Path) -> None:
    data = "all: # für\n".encode("latin-1")
    new, added = edits.add_line(data.decode("utf-8", "surrogateescape"), "x")
    assert new.encode("utf-8", "surrogateescape") == data + added.encode()


def test_the_lines_for_models_name_the_job_of_the_server() -> None:
    lines = edits.model_lines("tracking")
    assert edits.model_lines("mlflow_server") == lines.replace("tracking'", "mlflow_server'")
    added = yaml.safe_load(lines)
    assert list(added) == list(edits.ADDED)
    for section, entries in added.items():
        assert entries.keys() < edits.ADDED[section].keys()
    assert added["jobs"]["mlflow_model"]["args"]["tracking_uri"].count("inspect_job('tracking')") == 2
