"""Every example of the reference, evaluated by the real neuro-flow. The other two modules run them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field

import pytest

from .harness import EXAMPLES, Evaluated, Flow

pytestmark = pytest.mark.e2e
MakeFlow = Callable[..., Flow]

S3_ENDPOINT = "https://minio.example.com"
EXTRA_PARAMS = '--workers 1 --uvicorn-opts "--timeout-keep-alive 120 --no-access-log"'
VOLUME = "storage:{flow}:/mnt/mlflow:rw"
"""The first example's volume; `{flow}` is the storage folder that a test gives it."""


@dataclass
class Change:
    """What an example changes in the job that the first example evaluates to."""

    env: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)


SQLITE = {"MLFLOW_BACKEND_STORE_URI": "sqlite:////mnt/mlflow/mlflow.db"}
FIRST = Change(
    env={
        "MLFLOW_ACTION_MODE": "server",
        "MLFLOW_ACTION_EXTRA_PARAMS": "",
        "MLFLOW_ACTION_BACKUP_EVERY": "",
        "MLFLOW_ACTION_VOLUMES": "",
        "MLFLOW_ARTIFACTS_DESTINATION": "/mnt/mlflow/artifacts",
        "MLFLOW_BACKEND_STORE_URI": "",
        "MLFLOW_PORT": "5000",
    },
    options={
        "image": "ghcr.io/mlflow/mlflow:v3.17.2-full",
        "name": "{flow}-mlflow-server",
        "entrypoint": "env",
        "http-port": "5000",
        "no-http-auth": "",
        "life-span": "864000s",
        "restart": "never",
        "detach": "",
    },
    volumes=[VOLUME],
)
CHANGES = {
    "-1": Change(),
    "mode-2": Change({"MLFLOW_ACTION_MODE": "ui", **SQLITE}),
    "artifacts_destination-1": Change(),
    "artifacts_destination-2": Change(
        {
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://my-bucket/mlflow",
            **SQLITE,
            "AWS_ACCESS_KEY_ID": "secret:aws-key-id",
            "AWS_SECRET_ACCESS_KEY": "secret:aws-key",
            "MLFLOW_S3_ENDPOINT_URL": S3_ENDPOINT,
        }
    ),
    "artifacts_destination-3": Change(
        {
            "MLFLOW_ARTIFACTS_DESTINATION": "gs://my-bucket/mlflow",
            **SQLITE,
            "GOOGLE_APPLICATION_CREDENTIALS": "/var/secrets/gcp.json",
        },
        volumes=[VOLUME, "secret:gcp-key:/var/secrets/gcp.json"],
    ),
    "artifacts_destination-4": Change(
        {
            "MLFLOW_ARTIFACTS_DESTINATION": "wasbs://container@account.blob.core.windows.net/mlflow",
            **SQLITE,
            "AZURE_STORAGE_CONNECTION_STRING": "secret:azure-storage",
        }
    ),
    "backend_store_uri-1": Change(SQLITE),
    "backend_store_uri-2": Change(
        {"MLFLOW_BACKEND_STORE_URI": "sqlite:////mnt/database/mlflow.db"},
        volumes=[VOLUME, "disk:mlflow-db:/mnt/database:rw"],
    ),
    "backend_store_uri-3": Change({"MLFLOW_BACKEND_STORE_URI": "secret:mlflow-db"}),
    "backend_store_uri-5": Change({"MLFLOW_BACKEND_STORE_URI": "/mnt/mlflow/mlruns"}),
    "volumes-1": Change(volumes=[VOLUME]),
    "volumes-2": Change(volumes=["storage:mlflow:/mnt/mlflow:rw", "storage:datasets:/mnt/datasets:ro"]),
    "envs-1": Change({"MLFLOW_WORKERS": "1", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "secret:origins"}),
    "http_auth-1": Change(options={"http-auth": ""}),
    "life_span-1": Change(options={"life-span": "129600s"}),
    "port-1": Change({"MLFLOW_PORT": "8080"}, {"http-port": "8080"}),
    "job_name-1": Change(options={"name": "team-mlflow"}),
    "preset-1": Change(options={"preset": "cpu-medium"}),
    "extra_params-1": Change({"MLFLOW_ACTION_EXTRA_PARAMS": EXTRA_PARAMS}),
    "image-1": Change(options={"image": "ghcr.io/neuro-inc/mlflow:pipelines"}),
    "restart-1": Change(options={"restart": "on-failure"}),
    "backup_every-1": Change({"MLFLOW_ACTION_BACKUP_EVERY": "1d"}),
    "browse-1": Change(options={"browse": ""}),
}
# Those that change things of their own are evaluated together, the others each alone.
TOGETHER = [
    *("artifacts_destination-1", "backend_store_uri-1", "volumes-1", "envs-1", "http_auth-1", "life_span-1"),
    *("port-1", "job_name-1", "preset-1", "extra_params-1", "image-1", "restart-1", "backup_every-1"),
    "browse-1",
]
GROUPS = {"together": TOGETHER} | {name: [name] for name in CHANGES if name not in TOGETHER}


def test_every_example_is_evaluated() -> None:
    others = {"mode-1", "backend_store_uri-4"}  # a training job; and one that needs the job that it inspects
    assert {*CHANGES, *others} == set(EXAMPLES)


@pytest.fixture(scope="module")
def evaluated(flow: MakeFlow) -> Iterator[dict[str, Future[Evaluated]]]:
    """Every group's job, worked out by neuro-flow in the background."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            group: pool.submit(flow(f"group-{number}", *names).evaluate)
            for number, (group, names) in enumerate(GROUPS.items())
        }


@pytest.mark.parametrize("group", GROUPS)
def test_what_examples_evaluate_to(group: str, evaluated: dict[str, Future[Evaluated]]) -> None:
    expected = deepcopy(FIRST)
    for change in (CHANGES[name] for name in GROUPS[group]):
        expected.env |= change.env
        expected.options |= change.options
        expected.volumes = change.volumes or expected.volumes
    if "http-auth" in expected.options:
        del expected.options["no-http-auth"]
    folder = f"group-{list(GROUPS).index(group)}"
    expected.options["name"] = expected.options["name"].format(flow=folder)
    expected.volumes = [volume.format(flow=folder) for volume in expected.volumes]
    if expected.env["MLFLOW_ACTION_BACKUP_EVERY"]:
        expected.env["MLFLOW_ACTION_VOLUMES"] = json.dumps(expected.volumes)
    job = evaluated[group].result()
    for incidental in ("tag", "description", "project"):
        del job.options[incidental]
    del job.env["MLFLOW_ACTION_CODE"], job.env["MLFLOW_ACTION_CODE_MORE"]
    assert Change(job.env, job.options, job.volumes) == expected
    assert job.command[:2] == ["python3", "-uc"]
