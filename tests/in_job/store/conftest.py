"""What the tests of backups, restores, upgrades and clean-ups run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer

from tests.in_job.serve.conftest import (  # noqa: F401 - fixtures
    mariadb,
    mount,
    postgresql,
    start,
    template,
)

from .harness import Place, Warm, warm_process


class S3:
    """An object store with a bucket."""

    def __init__(self, url: str) -> None:
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        self.client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        self.client.create_bucket(Bucket="bucket")
        self.env = {"MLFLOW_S3_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        self.env |= {name.upper(): value for name, value in keys.items()}

    def tree(self, prefix: str) -> dict[str, bytes]:
        """Return the content of each object below a prefix by its key."""
        found = self.client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
        objects = {entry["Key"]: self.client.get_object(Bucket="bucket", Key=entry["Key"]) for entry in found}
        return {key.removeprefix(prefix): value["Body"].read() for key, value in objects.items()}


MakePlace = Callable[..., Place]


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with warm_process(tmp_path_factory.mktemp("warm")) as process:
        yield process


@pytest.fixture
def place(warm: Warm, tmp_path: Path) -> MakePlace:
    """Makes a store in a folder of its own, SQLite unless a URI is given."""

    def make(name: str = "volume", uri: str = "", destination: str | Path = "", **env: str) -> Place:
        return Place(warm, tmp_path / name, uri, destination, **env)

    return make


@pytest.fixture(scope="session")
def filled(warm: Warm, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A database with rows in every table."""
    path = tmp_path_factory.mktemp("filled") / "mlflow.db"
    path.write_bytes(template.read_bytes())
    warm.python(Path(__file__).with_name("content.py").read_text("utf-8"), DATABASE=str(path))
    return path


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield S3("http://{}:{}".format(*server.get_host_and_port()))
    finally:
        server.stop()
