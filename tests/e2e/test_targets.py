"""Every other target, and what goes wrong, on one server."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.test_makefile import TARGETS

from .conftest import Clone
from .screen import on_terminal

pytestmark = pytest.mark.e2e


def test_status(served: Clone) -> None:
    out, _ = served.local("mlflow-status")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["state"] == "serving"
    assert lines["settings"] == "as today"
    assert lines["ends"].split() == ["in", "9d23h"]


def test_settings_that_differ_from_the_running_server(served: Clone) -> None:
    changed = ["MLFLOW_PORT=5001", 'MLFLOW_ENVS={"A": "b"}', "MLFLOW_LIFE_SPAN=20d"]
    _, err = served.local("mlflow-up", *changed)
    for change in ("port: 5000 → 5001", 'envs: {} → {"A": "b"}', "make mlflow-restart"):
        assert change in err
    assert "life_span" in err
    out, _ = served.local("mlflow-status", "MLFLOW_HTTP_AUTH=true")
    assert "http_auth: False → True" in out
    assert "port" not in out


def test_the_platforms_own_commands_show_a_short_job(served: Clone) -> None:
    commands = [["neuro-flow", "status", "mlflow_server"], ["apolo", "ps", "-w"]]
    for name, *words in commands:
        command = [str(served.state / "bin" / name), *words]
        shell = f"stty columns 80; exec {shlex.join(command)}"
        on_terminal = ["script", "-qec", f"bash -c {shlex.quote(shell)}", "/dev/null"]
        env = {**served.env, "TERM": "xterm", "PAGER": "cat"}
        for printed in (
            subprocess.check_output(command, env=served.env, text=True, cwd=served.path, timeout=120),
            subprocess.check_output(on_terminal, env=env, text=True, cwd=served.path, timeout=120),
        ):
            assert "import_module" not in printed
            assert 5 < printed.count("\n") < 55, printed
            plain = re.sub(r"\x1b\[[\d;]*m", "", printed)
            assert name == "apolo" or re.search(r"Http URL +http://127.0.0.1:\d+", plain)


def test_extend(served: Clone) -> None:
    _, err = served.local("mlflow-extend", "BY=3d")
    assert re.search(r"ends in 12d23h", err)
    _, err = served.local("mlflow-extend", code=1)
    assert "BY is ''" in err
    _, err = served.local("mlflow-extend", "BY=30s", code=1)
    assert "at least a minute" in err
    _, err = served.local("mlflow-extend", "BY=1000000w", code=1)
    assert "make command line: BY is '1000000w', which the platform refuses for job job-" in err


def test_logs(served: Clone) -> None:
    out, _ = served.local("mlflow-logs", "MLFLOW_FOLLOW=no")
    assert "Application startup complete" in out
    process = served.start("mlflow-logs", "MLFLOW_PLATFORM=local")
    assert process.stdout
    for line in process.stdout:
        if "Application startup complete" in line:
            break
    assert process.poll() is None
    os.killpg(process.pid, 2)
    _, err = process.communicate(timeout=30)
    assert "Traceback" not in err


def test_env_points_a_client_at_the_server(served: Clone) -> None:
    line = served.local("mlflow-up")[0].splitlines()[1]  # as it says itself, whatever the Makefile prints
    assert line == 'eval "$(make -s -f scripts/mlflow.mk mlflow-env MLFLOW_PLATFORM=local)"'
    makefile = served.path / "Makefile"
    before = makefile.read_text()
    makefile.write_text(before + "$(info hello)\nMAKEFLAGS += --trace\n")
    shell = f'{line} && printf %s "$MLFLOW_TRACKING_URI"'
    run = subprocess.run(
        ["bash", "-c", shell], cwd=served.path, env=served.env, capture_output=True, text=True, check=True
    )
    words = ["make", "-s", "-f", "scripts/mlflow.mk", "mlflow-config", "MLFLOW_FORMAT=json"]
    settings = json.loads(subprocess.check_output(words, cwd=served.path, env=served.env))
    makefile.write_text(before)
    assert run.stdout == served.up()
    assert settings["port"]["value"] == "5000"


def test_pages_of_the_server_itself_may_post_and_others_may_not(served: Clone) -> None:
    url = served.up()
    port = url.rpartition(":")[2]
    [name] = re.findall(r"(\S+)\.platform-jobs", (served.state / "hosts").read_text())[-1:]
    public = f"http://{name}.jobs.local.localhost:{port}"  # a browser finds *.localhost by itself
    for origin, host, status in (
        (url, f"127.0.0.1:{port}", 200),
        (public, public.removeprefix("http://"), 200),
        ("http://evil.example", f"127.0.0.1:{port}", 403),
        (url, f"evil.example:{port}", 404),
    ):
        headers = {"Origin": origin, "Host": host, "Content-Type": "application/json"}
        body = b'{"experiment_ids": ["0"]}'
        request = urllib.request.Request(f"{url}/api/2.0/mlflow/runs/search", body, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                found = answer.status
        except urllib.error.HTTPError as error:
            found = error.code
        assert found == status, (origin, host)


def test_a_job_of_the_same_flow_trains_against_it(served: Clone) -> None:
    flow = [f"{served.state}/bin/neuro-flow", "run", "train"]
    run = subprocess.run(
        flow, cwd=served.path, env=served.env, capture_output=True, text=True, timeout=180, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = re.search(r"run (\w{32}) accuracy ([\d.]+)", run.stdout)
    assert found
    assert float(found[2]) > 0.8
    read = """
import sys, mlflow
client = mlflow.MlflowClient()
run = client.get_run(sys.argv[1])
print(len(client.get_metric_history(sys.argv[1], "accuracy")), run.data.params["model"],
      [a.path for a in client.list_artifacts(sys.argv[1])], client.get_model_version("iris", "1").status)
"""
    url = served.up()
    assert (
        served.python(read, found[1], MLFLOW_TRACKING_URI=url)
        == "20 SGDClassifier ['coefficients.txt'] READY\n"
    )


def test_another_flow_command(served: Clone) -> None:
    own = served.path / ".mlflow/venv/bin/apolo-flow"
    out, _ = served.local("mlflow-status", f"MLFLOW_FLOW_CLI={own}")
    assert "as today" in out
    _, err = served.local("mlflow-status", "MLFLOW_FLOW_CLI=no-such-flow", code=1)
    assert "make command line: there is no command no-such-flow; install it or correct flow_cli" in err


@pytest.mark.usefixtures("tables")
def test_restart_applies_new_settings(clone: Clone) -> None:
    clone.local("mlflow-restart")  # nothing runs: it only starts
    out, err = clone.local("mlflow-restart", 'MLFLOW_ENVS={"MLFLOW_WORKERS": "1"}')
    assert "MLflow is up" in out
    _, err = clone.local("mlflow-restart", "MLFLOW_PORT=none", code=1)
    assert "port is 'none'" in err
    clone.local("mlflow-status", 'MLFLOW_ENVS={"MLFLOW_WORKERS": "1"}')


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["MLFLOW_PORT=x", "MLFLOW_MODE=y"], ["port is 'x'", "mode is 'y'"]),
        (["MLFLOW_PLATFORM=mars"], ["platform is 'mars'"]),
    ],
)
def test_a_wrong_setting_starts_nothing(clone: Clone, words: list[str], messages: list[str]) -> None:
    _, err = clone.local("mlflow-up", *words, code=1)
    for message in messages:
        assert f"mlflow: error: make command line: {message}" in err
    assert not clone.state.exists()
    assert not (clone.path / ".mlflow/action.yaml").exists()


def test_what_the_platform_refuses(clone: Clone) -> None:
    for word, message in (
        ("MLFLOW_PRESET=gpu-huge", "gpu-huge"),
        ("MLFLOW_IMAGE=example.org/none:1", "example.org/none:1"),
        ("MLFLOW_EXTRA_PARAMS=--no-such-option", "No such option"),
    ):
        _, err = clone.local("mlflow-up", word, code=1)
        assert message in err
        assert "Traceback" not in err
        out, _ = clone.local("mlflow-status", code=1)
        assert out.startswith("state     not running\n")


def test_check_asks_the_platform(clone: Clone) -> None:
    _, err = clone.local("mlflow-check")
    assert err == "mlflow: no error found\n"
    inline = "MLFLOW_BACKEND_STORE_URI=postgresql://me:s3cret@db.example.org/runs"
    for words in (("mlflow-check", inline), ("mlflow-up", inline, "MLFLOW_DRY_RUN=yes")):
        out, err = clone.local(*words)
        assert err.count("can be read in the job's description") == 1
        assert "s3cret" not in out + err
    wrong = ["MLFLOW_PRESET=huge", "MLFLOW_BACKEND_STORE_URI=secret:db", 'MLFLOW_ENVS={"A": "secret:a"}']
    for target in ("mlflow-check", "mlflow-up"):
        _, err = clone.local(target, *wrong, code=1)
        for message in (
            "preset is 'huge'; this cluster has cpu-small, ",
            "there is no secret db; `.mlflow/local/bin/apolo secret add db @FILE` makes it",
            "there is no secret a; ",
        ):
            assert f"mlflow: error: make command line: {message}" in err
    live = clone.path / ".neuro/live.yaml"
    live.write_text(live.read_text().replace("/artifacts\n", "/../elsewhere/artifacts\n"))
    live.write_text(live.read_text().replace("sqlite:///$", "sqlite://$"))
    _, err = clone.local("mlflow-check", code=1)
    line = next(n for n, text in enumerate(live.read_text().splitlines(), 1) if "backend_store_uri:" in text)
    assert f"live.yaml:{line}: backend_store_uri is 'sqlite:///mnt/mlflow/mlflow.db'; with 3 slashes" in err
    assert list(clone.state.glob("jobs/*")) == []
    assert clone.processes() == []


def test_check_looks_at_the_tools(clone: Clone) -> None:
    old = clone.path / "old-flow"
    real = clone.path / ".mlflow/venv/bin/neuro-flow"
    old.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec echo neuro-flow 22.7.1\nexec "{real}" "$@"\n')
    old.chmod(0o755)
    live = clone.path / ".neuro/live.yaml"
    live.write_text(live.read_text() + "  other:\n    action: gh:nobody/nothing@v1\n    args: {}\n")
    ssh = {"GIT_SSH_COMMAND": "false"}  # no test asks GitHub
    _, err = clone.local("mlflow-check", f"MLFLOW_FLOW_CLI={old}", code=0, **ssh)
    assert "warning: make command line: flow_cli is neuro-flow 22.7.1; take 24.12 or newer" in err
    assert re.search(r"warning: \.neuro/live\.yaml:\d+: git cannot fetch gh:nobody/nothing@v1; ", err)
    assert err.endswith("mlflow: no error found\n")


def test_no_login_and_no_platform(clone: Clone) -> None:
    for target in ("mlflow-up", "mlflow-down", "mlflow-status", "mlflow-logs", "mlflow-env", "mlflow-open"):
        out, err = clone.make(target, code=2)
        assert out == ""
        assert ".mlflow/venv/bin/neuro login` logs in" in err
        assert "MLFLOW_PLATFORM=local" in err


def test_targets_that_need_no_login(clone: Clone) -> None:
    out, err = clone.make("mlflow-render", "MLFLOW_PORT=7000")
    assert out == ".mlflow/action.yaml\n"
    assert 'default: "7000"' in (clone.path / out.strip()).read_text()
    out, _ = clone.make(
        "mlflow-config", "MLFLOW_FORMAT=json", MLFLOW_BACKEND_STORE_URI="postgresql://me:pw@h/db"
    )
    shown = json.loads(out)["backend_store_uri"]
    assert (shown["value"], shown["source"]) == (
        "postgresql://me:***@h/db",
        "environment MLFLOW_BACKEND_STORE_URI",
    )
    assert shown["overrides"]["value"] == "sqlite:///${{ volumes.mlflow.mount }}/mlflow.db"
    assert shown["overrides"]["overrides"]["source"].startswith("action.yaml:")
    out, _ = clone.make("mlflow-config")
    assert re.search(r"(?m)^port +5000 +action.yaml:\d+$", out)
    _, err = clone.make("mlflow-check")
    login = "`.mlflow/venv/bin/neuro login` logs in; `make mlflow-{} MLFLOW_PLATFORM=local` needs no login"
    assert f"mlflow: warning: not logged in to the platform; {login.format('check')}\n" in err
    assert "not checked without the platform: expressions in live.yaml, preset, secrets" in err
    assert err.endswith("mlflow: no error found\n")
    for target in ("help", "mlflow-help"):
        out, _ = clone.make(target, MLFLOW_PORT="7000")
        assert re.search(r"(?m)^  MLFLOW_PORT +7000  \[environment MLFLOW_PORT\]$", out)
        assert "make mlflow-up" in out
    _, err = clone.make("mlflow-down", code=2)
    assert f"mlflow: error: not logged in to the platform; {login.format('down')}\n" in err
    _, err = clone.make("mlflow-config", "MLFLOW_FORMAT=yaml", code=1)
    assert "MLFLOW_FORMAT is 'yaml'; write json" in err


def test_help_on_a_terminal_stays_in_its_columns(clone: Clone) -> None:
    for width in (80, 200):
        _, lines = on_terminal(["make", "-s"], width, clone.path, clone.env)
        assert max(len(line) for line in lines if str(clone.path) not in line) <= width
        assert sum("make mlflow-" in line for line in lines) == len(TARGETS)


def test_a_fresh_clone_sets_itself_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    fresh = Clone(tmp_path_factory.mktemp("fresh"), set_up=False)
    try:
        out, err = fresh.local("mlflow-up")
        assert err.count("setting up") == 2
        url = out.splitlines()[0].rpartition(" ")[2]
        with urllib.request.urlopen(f"{url}/version") as answer:
            assert answer.read() == b"3.17.2"
    finally:
        fresh.end()
