"""Names that the platform gives out: cluster, organisations, projects, user and host names."""

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

CLUSTER = "local"
USER = "local"

#: Jobs reach each other under `<id>.NAMESPACE` and `<name>--<hash>.NAMESPACE`.
NAMESPACE = "platform-jobs"
#: Public host names of jobs are `<first label of the internal name>.JOBS_DOMAIN`.
JOBS_DOMAIN = "jobs.local.localhost"


@dataclass(frozen=True)
class Project:
    """A project of an organisation: names of jobs, disks and secrets are unique in one only."""

    org: str
    name: str

    @property
    def hash(self) -> str:
        """What tells equal names of two projects apart: one of both names, joined without a `/`."""
        return hashlib.sha256(f"{self.org}{self.name}".encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.org}/{self.name}"


#: The login's own project first, and what a client can mistake for it: another one of the same organisation,
#: and one of the same name in another organisation.
PROJECTS = (Project("local", "mlflow"), Project("local", "other"), Project("second", "mlflow"))
HOME = PROJECTS[0]
ORGS = tuple(dict.fromkeys(project.org for project in PROJECTS))


class ApiError(Exception):
    """An error that the caller is told of: an HTTP status and one line, `errno` names an OS error."""

    def __init__(self, status: int, message: str, errno: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.errno = errno


def project_of(values: Any, cluster_key: str = "cluster_name") -> Project:
    """
    Return the project that a body or query names.

    Raises ApiError 400 if it names none, in the platform's own words, 403 for one that there is not.
    """
    for key in ("project_name", "org_name"):
        if not values.get(key):
            raise ApiError(400, f"{{'{key}': DataError('is required')}}")
    if values.get(cluster_key) not in (None, "", CLUSTER):
        raise ApiError(403, f"{cluster_key} {values[cluster_key]!r}: there is only {CLUSTER!r} here")
    project = Project(values["org_name"], values["project_name"])
    if project not in PROJECTS:
        raise ApiError(403, f"{project} is none of your projects: {', '.join(map(str, PROJECTS))}")
    return project


def labels(job_id: str, name: str | None, project: Project) -> list[str]:
    """First labels of a job's host names: by id, and by name when it has one."""
    return [job_id, f"{name}--{project.hash[:10]}"] if name else [job_id]


def public_hosts(job_id: str, name: str | None, project: Project) -> list[str]:
    """Host names under which the platform's ingress serves a job; the last is the preferred one."""
    return [f"{label}.{JOBS_DOMAIN}" for label in labels(job_id, name, project)]


def internal_hosts(job_id: str, name: str | None, project: Project) -> list[str]:
    """Host names under which other jobs reach a job."""
    return [f"{label}.{NAMESPACE}" for label in labels(job_id, name, project)]


def uri_path(uri: object, scheme: str) -> tuple[Project, list[str]]:
    """
    Split `SCHEME://CLUSTER/ORG/PROJECT/a/b` into the project and `["a", "b"]`.

    Raises ApiError 400 for what is malformed or climbs with `..`, 403 for another cluster, org or project.
    """
    head = f"{scheme}://"
    if not isinstance(uri, str) or not uri.startswith(head):
        raise ApiError(400, f"{uri!r} is no {scheme} URI: expected {head}{CLUSTER}/ORG/PROJECT/…")
    cluster, _, path = uri[len(head) :].partition("/")
    if cluster != CLUSTER:
        raise ApiError(403, f"{uri!r}: there is no cluster but {CLUSTER!r} here")
    return project_path(path, uri)


def project_path(encoded: str, shown: str) -> tuple[Project, list[str]]:
    """
    Split the percent-encoded path `ORG/PROJECT/a/b` into the project and `["a", "b"]`.

    `shown` is what the caller sent, for messages. Errors as in `uri_path`.
    """
    parts = [unquote(part) for part in encoded.split("/") if part]
    for part in parts:
        if part in (".", "..") or "/" in part or "\0" in part:
            raise ApiError(400, f"{shown!r}: {part!r} is not allowed in a path")
    project = Project(*parts[:2]) if len(parts) > 1 else None
    if project not in PROJECTS:
        there = ", ".join(map(str, PROJECTS))
        raise ApiError(403, f"{shown!r} is outside of {there}, which is all there is here")
    return project, parts[2:]
