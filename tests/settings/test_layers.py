"""The layers of the settings and their sources."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from settings import action, file, layers, live
from tests.conftest import ROOT


def test_settings_are_the_inputs_and_the_toolkits_own(workspace: Path) -> None:
    names = list(action.read_inputs((ROOT / "action.yaml").read_text(encoding="utf-8")))
    of_models = action.read_inputs((ROOT / "deploy.yaml").read_text(encoding="utf-8"))
    deploy = [f"deploy_{name}" for name in of_models if name not in ("model", "tracking_uri", "follow")]
    assert list(layers.load().all) == [*names, *deploy, "platform", "flow_cli", "timeout"]


def test_the_later_layer_wins_and_each_value_has_its_source(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "mlflow.yaml").write_text("# ours\nport: 7001\nlife_span: 1d\npreset: small\n")
    monkeypatch.setenv("MLFLOW_PORT", "7002")
    monkeypatch.setenv("MLFLOW_LIFE_SPAN", "2d")
    monkeypatch.setenv("MAKEFLAGS", "s -- MLFLOW_PORT=7002")
    found = layers.load()
    assert not found.problems
    seen = {name: (s.value, s.source) for name, s in found.all.items()}
    assert seen["port"] == ("7002", "make command line")
    assert seen["life_span"] == ("2d", "environment MLFLOW_LIFE_SPAN")
    assert seen["preset"] == ("small", "mlflow.yaml:4")
    assert seen["artifacts_destination"][1].startswith(".neuro/live.yaml:")
    assert seen["mode"][1].startswith("action.yaml:")
    under = found.inputs["port"].overrides
    assert under is not None
    assert (under.value, under.source) == ("7001", "mlflow.yaml:2")
    assert found.overrides == {"port": "7002", "life_span": "2d", "preset": "small"}


def test_values_of_the_file_are_text_as_written(workspace: Path) -> None:
    (workspace / "mlflow.yaml").write_text(
        "port: 0x10\nhttp_auth: yes\npreset: 'p$x $1 ${{ y }} \\ é'\njob_name:\n"
        "volumes:\n  - storage:a:/a:rw\nenvs: {A: 1, B: no}\n"
    )
    found = layers.load()
    [problem] = found.problems
    assert (problem.what, problem.warning) == (
        "preset has an expression, which is taken as it is written",
        True,
    )
    values = {name: s.value for name, s in found.inputs.items()}
    assert (values["port"], values["http_auth"], values["job_name"]) == ("0x10", "yes", "")
    assert values["preset"] == "p$x $1 ${{ y }} \\ é"
    assert json.loads(values["volumes"]) == ["storage:a:/a:rw"]
    assert json.loads(values["envs"]) == {"A": "1", "B": "no"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${SET}", "a$b ${SET} \\"),
        ("x${SET}y", "xa$b ${SET} \\y"),
        ("${UNSET:-d e/f}", "d e/f"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${UNSET:-}", ""),
        ("$SET $1 $$ $", "$SET $1 $$ $"),
        ("${{ SET }} ${{ ${SET} }}", "${{ SET }} ${{ ${SET} }}"),
    ],
)
def test_references_to_the_environment(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", "a$b ${SET} \\")
    monkeypatch.setenv("EMPTY", "")
    assert file.substitute(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${UNSET}", "UNSET is not set"),
        ("${X:?must be set}", "${X:?must be set} is not"),
        ("${1}", "${1} is not"),
        ("${X:-$Y}", "${X:-$Y} is not"),
        ("${X", "${X is not"),
        ("${X-y}", "${X-y} is not"),
    ],
)
def test_malformed_and_unset_references(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        file.substitute(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MLFLOW_PORT: 1\n", "mlflow.yaml:1: MLFLOW_PORT is not a setting; did you mean port?"),
        (b"Life-Span: 1d\n", "mlflow.yaml:1: Life-Span is not a setting; did you mean life_span?"),
        (
            b"default_artifact_root: /a\n",
            "default_artifact_root is not a setting; did you mean artifacts_destination?",
        ),
        (b"<<: 1\n", "mlflow.yaml: << takes a mapping, such as *NAME"),
        (b"envs: &e {A: *e}\n", "mlflow.yaml: "),
        (
            b"port: ${{ 1 }}\n",
            "mlflow.yaml:1: port has an expression, which is taken as it is written; expressions work",
        ),
        (b"http_port: 1\n", "mlflow.yaml:1: http_port is not a setting; did you mean port?"),
        (b"zzz: 1\n", "mlflow.yaml:1: zzz is not a setting; the settings are mode,"),
        (b"port: 1\nport: 2\n", "mlflow.yaml:2: port is set twice; mlflow.yaml:1 has it too"),
        (b"port: [1]\n", "mlflow.yaml:1: port is not a single value"),
        (b"- port\n", "mlflow.yaml:1: not a list of settings"),
        (b"port: 1\n  x: [\n", "mlflow.yaml:2: not YAML"),
        (b"port: \xff\n", "mlflow.yaml: not UTF-8 at byte 6"),
        (b"\n\npreset: ${NOT_SET}\n", "mlflow.yaml:3: preset: ${NOT_SET}: NOT_SET is not set"),
    ],
)
def test_mistakes_in_the_file(workspace: Path, content: bytes, message: str) -> None:
    (workspace / "mlflow.yaml").write_bytes(content)
    problems = [str(problem) for problem in layers.load().problems]
    assert len(problems) == 1
    assert message in problems[0]


def test_a_file_of_settings_that_cannot_be_read(workspace: Path) -> None:
    file = workspace / "mlflow.yaml"
    file.symlink_to("not there")
    [problem] = map(str, layers.load().problems)
    assert problem.startswith("mlflow.yaml: it cannot be read: No such file or directory; ")
    file.unlink()
    file.mkdir()
    [problem] = map(str, layers.load().problems)
    assert problem.startswith("mlflow.yaml: it cannot be read: Is a directory; ")


def test_a_file_of_settings_with_the_other_ending(workspace: Path) -> None:
    (workspace / "mlflow.yml").write_text("port: 7000\n")
    [problem] = layers.load().problems
    assert (str(problem), problem.warning) == (
        "mlflow.yml: nobody reads this file; rename it to mlflow.yaml",
        True,
    )
    (workspace / "mlflow.yaml").write_text("port: 7000\n")
    assert layers.load().problems == []  # it may be of something else


def test_anchors_and_merge_keys(workspace: Path) -> None:
    (workspace / "mlflow.yaml").write_text(
        "x-small: &small {preset: &name cpu-small, life_span: 1d, port: 1}\n"
        "x-env: &env {A: a, B: b}\n"
        "<<: [*small, {life_span: 9d, job_name: team}]\n"
        "port: 7000\nimage: *name\nenvs: {<<: *env, B: c}\n"
    )
    found = layers.load()
    assert not found.problems
    values = {name: s.value for name, s in found.inputs.items() if s.layer == layers.FILE}
    assert json.loads(values.pop("envs")) == {"A": "a", "B": "c"}
    assert values == {
        "preset": "cpu-small",
        "life_span": "1d",
        "port": "7000",
        "job_name": "team",
        "image": "cpu-small",
    }


def test_an_empty_file_is_fine(workspace: Path) -> None:
    (workspace / "mlflow.yaml").write_text("")
    assert not layers.load().problems


def test_empty_in_the_environment_is_unset_but_on_the_command_line_it_counts(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_PORT", "")
    assert layers.load().inputs["port"].value == "5000"
    monkeypatch.setenv("MAKEFLAGS", " -- MLFLOW_PORT=")
    assert layers.load().overrides == {"port": ""}


def test_a_dollar_that_make_would_eat_is_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PRESET", "a")
    monkeypatch.setenv("MAKEFLAGS", " -- MLFLOW_PRESET=a$$b")  # make doubles the $ that was typed
    [problem] = layers.load().problems
    assert "MLFLOW_PRESET: make changes the $" in str(problem)
    monkeypatch.setenv("MLFLOW_PRESET", "a$b")
    monkeypatch.setenv("MAKEFLAGS", " -- MLFLOW_PRESET=a$$$$b")
    assert not layers.load().problems


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgresql://me:pa:ss@host/db", "postgresql://me:***@host/db"),
        ("mysql+pymysql://me:p%40s@host", "mysql+pymysql://me:***@host"),
        (
            '{"DB_PASSWORD": "x", "A": "b", "API_KEY": "secret:key"}',
            '{"DB_PASSWORD": "***", "A": "b", "API_KEY": "secret:key"}',
        ),
        ("sqlite:////mnt/mlflow.db", "sqlite:////mnt/mlflow.db"),
        ("postgresql://me:p w@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=pw&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("wasbs://c@a.blob.core.windows.net/x?sig=a%2Fb", "wasbs://c@a.blob.core.windows.net/x?sig=***"),
        ('{"PASSWORD" : "a", "TOKEN":\n"b"}', '{"PASSWORD" : "***", "TOKEN":\n"***"}'),
        ('{"PASSWORD": "a\\"b", "A": "c"}', '{"PASSWORD": "***", "A": "c"}'),
        (
            '{"AZURE_STORAGE_CONNECTION_STRING": "AccountKey=a;"}',
            '{"AZURE_STORAGE_CONNECTION_STRING": "***"}',
        ),
        ('{"DB_PASS": "a", "BYPASS_A": "b"}', '{"DB_PASS": "***", "BYPASS_A": "b"}'),
        ("{'PASSWORD': 'a', 'A': 'b'}", "{'PASSWORD': '***', 'A': 'b'}"),  # not JSON: an error shows it
        ("{PASSWORD: a, A: b}", "{PASSWORD: ***, A: b}"),
        ('{"PASSWORD": "a', '{"PASSWORD": "***"'),
        ('{"PASSWORD": 1234}', '{"PASSWORD": ***}'),
        ("no such key: a", "no such key: a"),  # a line of a log
    ],
)
def test_redaction(value: str, shown: str) -> None:
    assert layers.redact(value) == shown


def test_apolo_folder_wins_as_in_neuro_flow(workspace: Path) -> None:
    assert live.flow_dir() == Path(".neuro")
    (workspace / ".apolo").mkdir()
    assert live.flow_dir() == Path(".apolo")


def test_variables_that_are_no_settings(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://x")  # MLflow's own
    monkeypatch.setenv("MLFLOW_LIFESPAN", "1d")
    monkeypatch.setenv("MLFLOW_HTTP_PORT", "1")
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "/a")  # MLflow's own
    monkeypatch.setenv("port", "1")
    monkeypatch.setenv(
        "MAKEFLAGS", " -- MLFLOW_ZZZ=2 MLFLOW_FOLLOW=no OTHER=3 mlflow_mode=ui PRESET=a image=b Preset=c"
    )
    assert [(str(problem), problem.warning) for problem in layers.load().problems] == [
        ("environment: MLFLOW_HTTP_PORT is not a setting; did you mean MLFLOW_PORT?", True),
        ("environment: MLFLOW_LIFESPAN is not a setting; did you mean MLFLOW_LIFE_SPAN?", True),
        ("make command line: MLFLOW_ZZZ is not a setting; `make mlflow-help` has the names", False),
        ("make command line: PRESET is not a setting; did you mean MLFLOW_PRESET?", False),
        ("make command line: image is not a setting; did you mean MLFLOW_IMAGE?", False),
        ("make command line: mlflow_mode is not a setting; did you mean MLFLOW_MODE?", False),
    ]
    monkeypatch.setenv("MAKELEVEL", "2")  # the user's own make has called this one
    assert [problem.warning for problem in layers.load().problems] == [True, True, False, True, True, False]


def test_args_that_are_no_inputs(workspace: Path) -> None:
    path = workspace / ".neuro/live.yaml"
    path.write_text(
        path.read_text().replace("    args:\n", "    args:\n      http_port: '1'\n      zzz: x\n", 1)
    )
    line = path.read_text().splitlines().index("      http_port: '1'") + 1
    found = layers.load()
    assert [str(problem) for problem in found.problems] == [
        f".neuro/live.yaml:{line}: http_port is no input of the action; did you mean port?",
        f".neuro/live.yaml:{line + 1}: zzz is no input of the action; "
        f"the inputs are {', '.join(found.inputs)}",
    ]


@pytest.mark.parametrize("merged", ["1", "*a"])
def test_args_that_cannot_be_merged(workspace: Path, merged: str) -> None:
    path = workspace / ".neuro/live.yaml"
    path.write_text(path.read_text().replace("    args:\n", f"    args: &a\n      <<: {merged}\n", 1))
    [problem] = map(str, layers.load().problems)
    assert re.match(r"\.neuro/live\.yaml:\d+: args of mlflow_server: ", problem)


def test_bytes_that_are_not_utf8(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PRESET", "a\udcff")
    [problem] = layers.load().problems
    assert str(problem) == "environment MLFLOW_PRESET: not UTF-8; set it to UTF-8 text"
