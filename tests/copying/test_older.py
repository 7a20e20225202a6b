"""A job that calls the older action is taken over: only what it calls changes."""

from __future__ import annotations

import re

import pytest
import yaml

from settings import layers
from settings.action import compose
from settings.live import server_job

from .conftest import Host, commit, lay, snapshot
from .older_flows import FLOWS, SQLITE, VOLUME, one

LIVE = ".neuro/live.yaml"
NEW = "ws:.mlflow/action.yaml"
OLDER = re.compile(r"(\w+): *\{?\s*action: [\"']?(gh:\S+/mlflow@[\w.]+)")
"""A job's name and the older action that it calls."""


def lay_flow(host: Host, text: str) -> None:
    (host.root / LIVE).write_bytes(text.encode())
    commit(host.root)


@pytest.mark.parametrize("name", ["example of 3.1.4", "braces, and blanks at a line's end"])
def test_nothing_is_changed_before_somebody_says_so(host: Host, name: str) -> None:
    lay_flow(host, FLOWS[name])
    before = snapshot(host.root)
    job, older = OLDER.findall(FLOWS[name])[0]
    _, err = host.install(code=1)
    assert (
        f"{job}: nothing has been changed; job {job} goes on calling {older}, and its runs stay on its "
        in err
    )
    assert "TAKE_OVER=yes does it, TAKE_OVER=no leaves it" in err
    assert snapshot(host.root) == before
    _, err = host.install(TAKE_OVER="no")
    assert f"nothing has been changed: job {job} goes on calling {older}" in err
    assert snapshot(host.root) == before


@pytest.mark.parametrize("name", FLOWS)
def test_taken_over_and_put_back(host: Host, name: str) -> None:
    text = FLOWS[name]
    lay_flow(host, text)
    before = snapshot(host.root)
    job, older = OLDER.findall(text)[0]
    shown, _ = host.install(MLFLOW_DRY_RUN="yes")
    assert snapshot(host.root) == before

    out, err = host.install(TAKE_OVER="yes")
    assert out == shown
    for note in (
        f"stays: the job's name, {job}, its volumes",
        "the first start upgrades the store",
        "browse: no ",
    ):
        assert note in out
    assert ("http_auth: " in out) is ("neuro" in older and name != "http_auth")
    now = (host.root / LIVE).read_bytes().decode()
    was, is_now = yaml.safe_load(text), yaml.safe_load(now)
    taken = is_now["jobs"][job]
    assert taken["action"] == NEW
    args = was["jobs"][job]["args"]
    args["artifacts_destination"] = args.pop("default_artifact_root", args.get("artifacts_destination"))
    assert taken["args"] == args
    was["jobs"][job]["action"] = NEW
    assert is_now == was
    changed = [new for new, old in zip(now.split("\n"), text.split("\n"), strict=True) if new != old]
    assert len(changed) == 1 + ("default_artifact_root" in text)
    assert all(f"    + {line.rstrip()}\n" in out for line in changed)
    assert server_job(compose(now)) == job

    assert f"cd {host.root} && make mlflow-restart\n" in err
    out, err = host.uninstall()
    assert (
        "the job calls its older action again; an older MLflow refuses a database that a newer one has" in err
    )
    for new, old in zip(now.split("\n"), text.split("\n"), strict=True):
        assert new == old or f"    - {new.rstrip()}\n    + {old.rstrip()}\n" in out
    assert "log" not in err.replace(str(host.root), "")  # nobody has logged in to the platform
    assert snapshot(host.root) == before


IMPOSSIBLE = {
    "an input of nobody's": (
        one(
            "mlflow", "gh:neuro-actions/mlflow@v2.1.1", SQLITE % "artifacts_destination" + "http_port: '4444'"
        ),
        ":16: http_port is no input of the action; did you mean port?",
    ),
    "a value that is none": (
        one(
            "mlflow",
            "gh:neuro-actions/mlflow@v2.1.1",
            SQLITE % "artifacts_destination" + 'extra_params: "--workers 2 --host example.com"',
        ),
        ":16: extra_params is '--workers 2 --host example.com'; leave --host out",
    ),
    "both names": (
        one("mlflow", "gh:x/mlflow@v1", SQLITE % "artifacts_destination" + "default_artifact_root: /a"),
        ":16: mlflow has default_artifact_root and artifacts_destination, which are one now; keep ",
    ),
    "no args": ("kind: live\njobs:\n  mlflow:\n    action: gh:x/mlflow@v1\n", ":4: mlflow has no args; "),
    "an alias": (
        "kind: live\nx: &a gh:x/mlflow@v1\njobs:\n  mlflow:\n    action: *a\n    args: {}\n",
        ":4: the action of mlflow is an alias; write it out",
    ),
    "merged": (
        "kind: live\nx: &a {default_artifact_root: /a}\njobs:\n  mlflow:\n    action: gh:x/mlflow@v1\n"
        "    args: {<<: *a}\n",
        ":2: default_artifact_root comes by a merge key; write artifacts_destination into the args of mlflow",
    ),
    "two of them": (
        "kind: live\njobs:\n  a: {action: 'gh:x/mlflow@v1', args: {}}\n"
        "  b: {action: 'gh:x/mlflow@v2', args: {}}\n",
        "a and b call an older action for an MLflow server; say which to take over: TAKE_OVER=JOB",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_taken_over(host: Host, name: str) -> None:
    text, message = IMPOSSIBLE[name]
    lay_flow(host, text)
    before = snapshot(host.root)
    _, err = host.install(code=1, TAKE_OVER="yes")
    assert f"error: {LIVE}{message}" in err or f"error: {LIVE}: {message}" in err
    stays = "" if name == "two of them" else "goes on calling gh:"
    assert re.search(rf"nothing has been changed; .*{stays}.*mend the above and run the same again", err)
    assert snapshot(host.root) == before


def test_one_of_two(host: Host) -> None:
    lay_flow(host, IMPOSSIBLE["two of them"][0])
    host.install(TAKE_OVER="b")
    flow = yaml.safe_load((host.root / LIVE).read_text())
    assert (flow["jobs"]["a"]["action"], flow["jobs"]["b"]["action"]) == ("gh:x/mlflow@v1", NEW)


@pytest.mark.parametrize("action", ["ws:mlflow-action.yaml", "ws:mlflow-action"])
def test_a_copy_of_an_action_in_the_repository(host: Host, action: str) -> None:
    lay(host.root, {"mlflow-action.yaml": "inputs:\n  backend_store_uri: {}\n  default_artifact_root: {}\n"})
    lay_flow(host, one("runs", action, SQLITE % "default_artifact_root"))
    out, _ = host.install(TAKE_OVER="yes")
    assert f"    -     action: {action}\n    +     action: {NEW}\n" in out


def test_other_actions_are_nothing_of_ours(host: Host) -> None:
    lay(host.root, {"other.yaml": "inputs:\n  a: {}\n"})
    text = (
        "kind: live\njobs:\n  a:\n    action: ws:other.yaml\n  b:\n    action: gh:neuro-actions/jupyter@v1\n"
    )
    lay_flow(host, text)
    host.install()
    assert server_job(compose((host.root / LIVE).read_text())) == "mlflow_server"


def test_a_flow_that_has_our_job_already(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    text = one("runs", NEW, SQLITE % "artifacts_destination", VOLUME)
    lay_flow(host, text)
    before = snapshot(host.root)
    out, _ = host.install()
    assert f"keep  the job runs, which calls {NEW} already" in out
    assert (host.root / LIVE).read_text() == text
    monkeypatch.chdir(host.root)
    assert layers.load().job == "runs"
    host.uninstall()
    assert snapshot(host.root) == before


def test_a_job_that_was_edited_since_stays(host: Host) -> None:
    lay_flow(host, FLOWS["docs of 1.17"])
    host.install(TAKE_OVER="yes")
    path = host.root / LIVE
    path.write_text(path.read_text().replace("artifacts_destination:", "artifacts_destination :"))
    edited = path.read_text()
    _, err = host.uninstall()
    assert "the job that was taken over was edited here: it stays" in err
    assert path.read_text() == edited
