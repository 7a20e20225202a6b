"""A job's record: what was asked for, what became of it, and how the API shows it."""

import re
import shlex
import time
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from .names import (
    CLUSTER,
    HOME,
    NAMESPACE,
    USER,
    ApiError,
    Project,
    internal_hosts,
    project_of,
    public_hosts,
    uri_path,
)
from .platform_config import PRESETS

ACTIVE = ("pending", "running")
RESTART_POLICIES = ("never", "on-failure", "always")
#: Seconds of a minute of life span. A test makes it shorter; nothing else does.
MINUTE = 60.0

#: The longest text that Linux hands to a program, in bytes (MAX_ARG_STRLEN in its binfmts.h).
LONGEST_TEXT = 2**17
_TEXT_FIELDS = (
    "name",
    "description",
    "preset_name",
    "entrypoint",
    "command",
    "working_dir",
    "image",
    "priority",
)
#: Keys of the request that the answer repeats in `container`.
_CONTAINER_FIELDS = (
    *("image", "entrypoint", "command", "working_dir", "http", "env", "secret_env"),
    *("volumes", "disk_volumes", "secret_volumes", "tty"),
)


@dataclass
class Job:
    """One job. Times are seconds since the epoch; `statuses` are its transitions, the last is the present."""

    request: dict[str, Any]
    id: str = field(default_factory=lambda: f"job-{uuid.uuid4()}")
    statuses: list[dict[str, Any]] = field(default_factory=list)
    restarts: int = 0
    max_run_time_minutes: float | None = None
    ingress_port: int | None = None
    materialized: bool = False  # whether there is a process of it, which may be so after its end

    @property
    def project(self) -> Project:
        """The project that the job is of; a record of before there were others names none."""
        return Project(
            self.request.get("org_name") or HOME.org, self.request.get("project_name") or HOME.name
        )

    @property
    def name(self) -> str | None:
        """The job's name, unique among the active jobs of the project."""
        return self.request.get("name") or None

    @property
    def status(self) -> str:
        """pending, running, succeeded, failed or cancelled."""
        return str(self.statuses[-1]["status"])

    @property
    def active(self) -> bool:
        """Whether the job is pending or running."""
        return self.status in ACTIVE

    @property
    def created_at(self) -> float:
        """When the job was accepted."""
        return float(self.statuses[0]["at"])

    @property
    def started_at(self) -> float | None:
        """When the job left the state pending."""
        return next((item["at"] for item in self.statuses if item["status"] != "pending"), None)

    @property
    def finished_at(self) -> float | None:
        """When the job ended."""
        return None if self.active else float(self.statuses[-1]["at"])

    @property
    def run_time(self) -> float:
        """Seconds since the job started, until now or its end."""
        started = self.started_at
        return 0.0 if started is None else max(0.0, (self.finished_at or time.time()) - started)

    def become(
        self, status: str, reason: str = "", description: str = "", exit_code: int | None = None
    ) -> None:
        """Note a transition. What is empty is null to the API, and an exit code that is None is not there."""
        item: dict[str, Any] = {
            "status": status,
            "reason": reason or None,
            "description": description or None,
            "at": time.time(),
        }
        self.statuses.append(item if exit_code is None else {**item, "exit_code": exit_code})

    def record(self) -> dict[str, Any]:
        """Return what is stored."""
        return asdict(self)

    def to_api(self) -> dict[str, Any]:
        """Return the job as the API shows it; the required keys are those that apolo-sdk reads."""
        last = self.statuses[-1]
        internal = internal_hosts(self.id, self.name, self.project)
        preset = PRESETS.get(self.request["preset_name"], PRESETS["cpu-small"])  # an old record's may be gone
        container = {key: self.request[key] for key in _CONTAINER_FIELDS if self.request.get(key)}
        container = {"env": {}, "volumes": [], **container}
        if self.request.get("http"):
            container["http"] = {"health_check_path": "/", "requires_auth": False, **self.request["http"]}
        container["resources"] = {
            "cpu": preset["cpu"],
            "memory": preset["memory"],
            "shm": bool((self.request.get("resources") or {}).get("shm")),
        }
        history = {
            **_to_api(last),
            "created_at": _iso(self.created_at),
            "run_time_seconds": self.run_time,
            "restarts": self.restarts,
        }
        for key, at in (("started_at", self.started_at), ("finished_at", self.finished_at)):
            if at is not None:
                history[key] = _iso(at)
        job = {
            "id": self.id,
            "owner": USER,
            "cluster_name": CLUSTER,
            "org_name": self.project.org,
            "project_name": self.project.name,
            "org_project_hash": self.project.hash,
            "namespace": NAMESPACE,
            "uri": f"job://{CLUSTER}/{self.project}/{self.id}",
            "status": self.status,
            "statuses": [{**_to_api(item), "transition_time": _iso(item["at"])} for item in self.statuses],
            "history": history,
            "container": container,
            "preset_name": self.request["preset_name"],
            "pass_config": bool(self.request.get("pass_config")),
            "restart_policy": self.request.get("restart_policy") or "never",
            "priority": self.request.get("priority") or "normal",
            "scheduler_enabled": False,
            "is_preemptible": False,
            "preemptible_node": False,
            "is_preemptible_node_required": False,
            "privileged": False,
            "materialized": self.materialized,
            "being_dropped": False,
            "logs_removed": False,
            "total_price_credits": "0",
            "price_credits_per_hour": "0",
            "internal_hostname": internal[0],
        }
        for key in ("name", "description", "schedule_timeout"):
            if self.request.get(key):
                job[key] = self.request[key]
        if self.request.get("tags"):
            job["tags"] = sorted(set(self.request["tags"]))
        if self.max_run_time_minutes is not None:
            job["max_run_time_minutes"] = self.max_run_time_minutes
        if self.name:
            job["internal_hostname_named"] = internal[-1]
        if self.ingress_port:
            job["http_url"] = f"http://127.0.0.1:{self.ingress_port}"
            if self.name:
                job["http_url_named"] = job["http_url"]
        return job

    @property
    def public_hosts(self) -> list[str]:
        """Host names under which the job is served to the outside; the last is the preferred one."""
        return public_hosts(self.id, self.name, self.project)


def _to_api(item: dict[str, Any]) -> dict[str, Any]:
    """Return a transition as the API shows it, but its time; older records have empty texts and codes."""
    shown = {key: item[key] or None for key in ("status", "reason", "description")}
    return shown if item.get("exit_code") is None else {**shown, "exit_code": item["exit_code"]}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def check(data: dict[str, Any]) -> Job:
    """
    Make a job of a request to `POST /jobs?from_preset`.

    Raises ApiError 400 that names the field for what is not valid or not supported here.
    """
    project_of(data)
    for key in _TEXT_FIELDS:
        if data.get(key) is not None and not _is_text(data[key]):
            raise ApiError(400, f"{key} must be a text without NUL, of less than {LONGEST_TEXT} bytes")
    if not data.get("image"):
        raise ApiError(400, "image is missing")
    if ".." in PurePosixPath(data.get("working_dir") or "").parts:
        raise ApiError(400, f"working_dir {data['working_dir']!r} is not a path without ..")
    name = data.get("name")
    if name and not (3 <= len(name) <= 40 and re.fullmatch(r"[a-z](-?[a-z0-9])*", name)):
        raise ApiError(400, f"name {name!r}: 3 to 40 small letters, digits and single -, a letter first")
    if name and name.startswith("job-"):
        raise ApiError(400, f"name {name!r}: what begins with job- is an id")
    _typed(data, "resources", dict)
    preset = data.get("preset_name")
    if preset not in PRESETS:
        raise ApiError(400, f"preset_name {preset!r} is none of {', '.join(PRESETS)}")
    for key in ("command", "entrypoint"):
        try:
            shlex.split(data.get(key) or "")
        except ValueError as error:
            raise ApiError(400, f"{key}: {error}") from error
    for key in ("env", "secret_env"):
        for variable, value in _typed(data, key, dict).items():
            if not variable or "=" in variable or not (_is_text(variable) and _is_text(value)):
                raise ApiError(400, f"{key}: {variable!r:.50} is not a variable with a text for a value")
    if len(_typed(data, "tags", list)) > 16 or not all(_is_text(tag) for tag in data.get("tags") or []):
        raise ApiError(400, "tags must be a list of at most 16 texts")
    if data.get("priority") not in (None, "low", "normal", "high"):
        raise ApiError(400, f"priority {data['priority']!r} is none of low, normal, high")
    if (data.get("restart_policy") or "never") not in RESTART_POLICIES:
        raise ApiError(
            400, f"restart_policy {data['restart_policy']!r} is none of {', '.join(RESTART_POLICIES)}"
        )
    minutes = data.get("max_run_time_minutes")
    if minutes is not None and not is_minutes(minutes):
        raise ApiError(400, f"max_run_time_minutes {minutes!r} is not a number of minutes, at least 1")
    if data.get("tty") not in (None, False, True):
        raise ApiError(400, f"tty {data['tty']!r} is neither true nor false")
    http = data.get("http")
    if http is not None and not (isinstance(http, dict) and _is_port(http.get("port"))):
        raise ApiError(400, "http.port must be a port number, 1 to 65535")
    _check_mounts(data)
    job = Job(data, max_run_time_minutes=minutes)
    job.become("pending", "Creating")
    return job


def _check_mounts(data: dict[str, Any]) -> None:
    targets: list[str] = []
    kinds = (("volumes", "storage", "src_storage_uri"), ("disk_volumes", "disk", "src_disk_uri"))
    for key, scheme, source in (*kinds, ("secret_volumes", "secret", "src_secret_uri")):
        for volume in _typed(data, key, list):
            if not isinstance(volume, dict):
                raise ApiError(400, f"{key} must be a list of objects")
            _, parts = uri_path(volume.get(source), scheme)
            if scheme != "storage" and len(parts) != 1:
                raise ApiError(400, f"{key}: {volume.get(source)!r} names no {scheme}")
            target = volume.get("dst_path")
            path = (
                PurePosixPath(target) if isinstance(target, str) and "\0" not in target else PurePosixPath()
            )
            if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
                raise ApiError(400, f"{key}: dst_path {target!r} is not an absolute path below /")
            if str(path) in targets:
                raise ApiError(400, f"{key}: dst_path {target!r} is used twice")
            targets.append(str(path))
    for variable, uri in _typed(data, "secret_env", dict).items():
        if len(uri_path(uri, "secret")[1]) != 1:
            raise ApiError(400, f"secret_env {variable}: {uri!r} names no secret")


def _typed(data: dict[str, Any], key: str, kind: type) -> Any:
    value = data.get(key)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise ApiError(400, f"{key} must be a {'list' if kind is list else 'dictionary'}")
    return value


def _is_text(value: object) -> bool:
    """Whether a program can be given a value: no NUL, no half of a surrogate pair, not too long."""
    try:
        return isinstance(value, str) and "\0" not in value and len(value.encode()) < LONGEST_TEXT
    except UnicodeEncodeError:
        return False


def is_minutes(value: object) -> TypeGuard[int]:
    """Whether a value of a request is a number of minutes that a life span can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536
