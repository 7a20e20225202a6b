"""Names that the platform gives out: cluster, organisation, project, user and host names."""

import hashlib
from urllib.parse import unquote

CLUSTER = "local"
ORG = "local"
PROJECT = "mlflow"
USER = "local"

#: Jobs reach each other under `<id>.NAMESPACE` and `<name>--<hash>.NAMESPACE`.
NAMESPACE = "platform-jobs"
#: Public host names of jobs are `<first label of the internal name>.JOBS_DOMAIN`.
JOBS_DOMAIN = "jobs.local.localhost"

#: The project's hash in host names of named jobs, as on the platform: names are unique in a project only.
PROJECT_HASH = hashlib.sha256(f"{ORG}/{PROJECT}".encode()).hexdigest()[:10]


class ApiError(Exception):
    """An error that the caller is told of: an HTTP status and one line, `errno` names an OS error."""

    def __init__(self, status: int, message: str, errno: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.errno = errno


def labels(job_id: str, name: str | None) -> list[str]:
    """First labels of a job's host names: by id, and by name when it has one."""
    return [job_id, f"{name}--{PROJECT_HASH}"] if name else [job_id]


def public_hosts(job_id: str, name: str | None) -> list[str]:
    """Host names under which the platform's ingress serves a job; the last is the preferred one."""
    return [f"{label}.{JOBS_DOMAIN}" for label in labels(job_id, name)]


def internal_hosts(job_id: str, name: str | None) -> list[str]:
    """Host names under which other jobs reach a job."""
    return [f"{label}.{NAMESPACE}" for label in labels(job_id, name)]


def uri_path(uri: object, scheme: str) -> list[str]:
    """
    Split `SCHEME://CLUSTER/ORG/PROJECT/a/b` into `["a", "b"]`.

    Raises ApiError 400 for what is malformed or climbs with `..`, 403 for another cluster, org or project.
    """
    head = f"{scheme}://"
    if not isinstance(uri, str) or not uri.startswith(head):
        raise ApiError(400, f"{uri!r} is no {scheme} URI: expected {head}{CLUSTER}/{ORG}/{PROJECT}/…")
    cluster, _, path = uri[len(head) :].partition("/")
    if cluster != CLUSTER:
        raise ApiError(403, f"{uri!r}: there is no cluster but {CLUSTER!r} here")
    return project_path(path, uri)


def project_path(encoded: str, shown: str) -> list[str]:
    """
    Split the percent-encoded path `ORG/PROJECT/a/b` into `["a", "b"]`.

    `shown` is what the caller sent, for messages. Errors as in `uri_path`.
    """
    parts = [unquote(part) for part in encoded.split("/") if part]
    for part in parts:
        if part in (".", "..") or "/" in part or "\0" in part:
            raise ApiError(400, f"{shown!r}: {part!r} is not allowed in a path")
    if parts[:2] != [ORG, PROJECT]:
        raise ApiError(403, f"{shown!r} is outside of {ORG}/{PROJECT}, which is all there is here")
    return parts[2:]
