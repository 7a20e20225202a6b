"""Every example of deploy.yaml's reference, evaluated by the real neuro-flow. tests/e2e serves models."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from dev import docs
from tests.conftest import ROOT

from .harness import Platform

pytestmark = pytest.mark.e2e

EXAMPLES = docs.examples((ROOT / "deploy.yaml").read_text(encoding="utf-8"))
SERVER = "http://server--hash.platform-jobs:5000"
ENV = {
    "MLFLOW_TRACKING_URI": SERVER,
    "MLFLOW_DEPLOY_MODEL": "iris",
    "MLFLOW_DEPLOY_FOLLOW": "False",
    "MLFLOW_DEPLOY_ENV_MANAGER": "uv",
    "MLFLOW_DEPLOY_CACHE": "/mnt/models",
    "MLFLOW_DEPLOY_WORKERS": "2",
    "MLFLOW_DEPLOY_PORT": "8080",
}
OPTIONS = {
    "description": "MLflow model",
    "image": "ghcr.io/mlflow/mlflow:v3.17.2-full",
    "entrypoint": "env",
    "http-port": "8080",
    "no-http-auth": "",
    "life-span": "864000s",
    "detach": "",
}
VOLUMES = ["storage:deploy-models:/mnt/models:rw"]
CHANGES: dict[str, dict[str, Any]] = {
    "model-1": {"MLFLOW_DEPLOY_MODEL": "iris/3"},
    "model-2": {"MLFLOW_DEPLOY_MODEL": "iris@champion"},
    "follow-1": {"MLFLOW_DEPLOY_MODEL": "iris@champion", "MLFLOW_DEPLOY_FOLLOW": "True"},
    "env_manager-1": {"MLFLOW_DEPLOY_ENV_MANAGER": "local"},
    "cache-1": {"volumes": ["storage:my-models:/mnt/models:rw"]},
    "workers-1": {"MLFLOW_DEPLOY_WORKERS": "4"},
    "port-1": {"MLFLOW_DEPLOY_PORT": "9000", "http-port": "9000"},
    "http_auth-1": {"http-auth": ""},
    "preset-1": {"preset": "gpu-small"},
    "life_span-1": {"life-span": "2592000s"},
    "image-1": {},
    "volumes-1": {},
    "envs-1": {"MLFLOW_TRACKING_USERNAME": "reader", "MLFLOW_TRACKING_PASSWORD": "secret:mlflow-reader"},
}
TOGETHER = [name for name in CHANGES if name not in ("model-1", "model-2", "cache-1", "volumes-1")]
GROUPS = {"-1": [], "model-1": ["model-1"], "model-2": ["model-2"], "cache-1": ["cache-1"], "all": TOGETHER}


def test_every_example_is_evaluated() -> None:
    others = {"-1", "tracking_uri-1", "volumes-1"}  # the first has these two, which need a running server
    assert {*CHANGES, *others} == set(EXAMPLES)


@pytest.mark.parametrize("group", GROUPS)
def test_what_examples_evaluate_to(group: str, platform: Platform) -> None:
    live = {"kind": "live", **yaml.safe_load(EXAMPLES["-1"])}
    args = live["jobs"]["mlflow_model"]["args"]
    assert yaml.safe_load(EXAMPLES["tracking_uri-1"])["tracking_uri"] == args["tracking_uri"]
    assert yaml.safe_load(EXAMPLES["volumes-1"])["volumes"] == args["volumes"]
    args["tracking_uri"] = SERVER
    env, options, volumes = dict(ENV), dict(OPTIONS), VOLUMES
    for name in GROUPS[group]:
        args |= {key: str(value) for key, value in yaml.safe_load(EXAMPLES[name]).items()}
        for key, value in CHANGES[name].items():
            if key == "volumes":
                volumes = value
            else:
                (env if key.isupper() else options)[key] = value
    if "http-auth" in options:
        del options["no-http-auth"]
    folder = f"deploy-{list(GROUPS).index(group)}"
    flow = platform.flow(folder, yaml.safe_dump(live))
    job = flow.evaluate("mlflow_model", "--suffix", "iris")
    assert job.options.pop("name") == f"{folder}-mlflow-model-iris"
    del job.options["tag"], job.options["project"]
    del job.env["MLFLOW_ACTION_CODE"], job.env["MLFLOW_ACTION_CODE_MORE"]
    expected = [volume.replace("deploy-models", f"{folder.replace('-', '_')}-models") for volume in volumes]
    assert (job.env, job.options, job.volumes) == (env, options, expected)
    assert job.command[:2] == ["python3", "-uc"]


def test_the_tag_names_the_model(platform: Platform) -> None:
    live = {"kind": "live", **yaml.safe_load(EXAMPLES["-1"])}
    live["jobs"]["mlflow_model"]["args"] |= {"tracking_uri": SERVER, "model": "two words/3"}
    flow = platform.flow("tagged", yaml.safe_dump(live))
    printed = flow.dry_run("mlflow_model", "--suffix", "x")
    assert "--tag=mlflow-model:two%20words/3" in printed
    assert "--tag=multi:x" in printed


@pytest.mark.parametrize("word", ["maybe", "Yess"])
def test_a_slip_leaves_no_model_open(word: str, platform: Platform) -> None:
    live = {"kind": "live", **yaml.safe_load(EXAMPLES["-1"])}
    live["jobs"]["mlflow_model"]["args"] |= {"tracking_uri": SERVER, "http_auth": word}
    flow = platform.flow(f"slip-{word.lower()}", yaml.safe_dump(live))
    assert "Expecting value" in flow.dry_run("mlflow_model", "--suffix", "x", code=1)


def test_a_job_that_was_made_of_json(platform: Platform) -> None:
    live = {"kind": "live", **yaml.safe_load(EXAMPLES["-1"])}
    envs = json.dumps({"A": "$(HOME) $$ costs 5$"})
    live["jobs"]["mlflow_model"]["args"] |= {"tracking_uri": SERVER, "envs": envs}
    job = platform.flow("dollars", yaml.safe_dump(live)).evaluate("mlflow_model", "--suffix", "x")
    assert job.env["A"] == "$$(HOME) $$$$ costs 5$$"
