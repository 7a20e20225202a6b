"""The shapes of the platform's answers as JSON schemas, written from what its public services answer."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
ANY_TEXT: dict[str, Any] = {"type": "string"}
NULL_OR_TEXT: dict[str, Any] = {"anyOf": [{"type": "null"}, TEXT]}
BOOL: dict[str, Any] = {"type": "boolean"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
NUMBER: dict[str, Any] = {"type": "number", "minimum": 0}
URL: dict[str, Any] = {"type": "string", "pattern": "^https?://[^/]+"}
TIME: dict[str, Any] = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$",
}
STATUS: dict[str, Any] = {"enum": ["pending", "running", "succeeded", "failed", "cancelled", "suspended"]}
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": ANY_TEXT}


def record(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of an object that has these keys and no other."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": sorted(required),
        "additionalProperties": False,
    }


def several(item: dict[str, Any], least: int = 0) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": item, "minItems": least}


def uri(scheme: str) -> dict[str, Any]:
    """Return the schema of a URI with cluster, organisation and project."""
    return {"type": "string", "pattern": f"^{scheme}://[^/]+/[^/]+/[^/]+"}


_TRANSITION = {"status": STATUS, "reason": NULL_OR_TEXT, "description": NULL_OR_TEXT}
_EXIT = {"exit_code": {"type": "integer"}}
_MOUNT = {"dst_path": {"type": "string", "pattern": "^/."}}
_WRITABLE = {**_MOUNT, "read_only": BOOL}
CONTAINER = record(
    {
        "image": TEXT,
        "env": TEXTS,
        "volumes": several(record({"src_storage_uri": uri("storage"), **_WRITABLE})),
        "resources": record({"cpu": NUMBER, "memory": COUNT}, {"shm": BOOL}),
    },
    {
        "entrypoint": TEXT,
        "command": TEXT,
        "working_dir": TEXT,
        "tty": BOOL,
        "http": record({"port": COUNT, "health_check_path": TEXT, "requires_auth": BOOL}),
        "secret_env": {"type": "object", "additionalProperties": uri("secret")},
        "disk_volumes": several(
            record(
                {
                    "src_disk_uri": {"type": "string", "pattern": "^disk://[^/]+/[^/]+/[^/]+/disk-"},
                    **_WRITABLE,
                }
            )
        ),
        "secret_volumes": several(record({"src_secret_uri": uri("secret"), **_MOUNT})),
    },
)
JOB = record(
    {
        "id": {"type": "string", "pattern": "^job-[0-9a-f-]{36}$"},
        "owner": TEXT,
        "namespace": TEXT,
        "cluster_name": TEXT,
        "org_name": TEXT,
        "project_name": TEXT,
        "org_project_hash": {"type": "string", "pattern": "^[0-9a-f]{10,}$"},
        "status": STATUS,
        "statuses": several(record({**_TRANSITION, "transition_time": TIME}, _EXIT), 1),
        "history": record(
            {**_TRANSITION, "created_at": TIME, "run_time_seconds": NUMBER, "restarts": COUNT},
            {"started_at": TIME, "finished_at": TIME, **_EXIT},
        ),
        "container": CONTAINER,
        "scheduler_enabled": BOOL,
        "is_preemptible": BOOL,
        "preemptible_node": BOOL,
        "is_preemptible_node_required": BOOL,
        "pass_config": BOOL,
        "uri": uri("job"),
        "restart_policy": {"enum": ["never", "on-failure", "always"]},
        "privileged": BOOL,
        "materialized": BOOL,
        "being_dropped": BOOL,
        "logs_removed": BOOL,
        "total_price_credits": {"type": "string", "pattern": r"^\d+(\.\d+)?$"},
        "price_credits_per_hour": {"type": "string", "pattern": r"^\d+(\.\d+)?$"},
        "priority": {"enum": ["low", "normal", "high"]},
    },
    {
        "name": {"type": "string", "pattern": "^(?!job-)[a-z][a-z0-9-]{1,38}[a-z0-9]$"},
        "description": TEXT,
        "tags": several(TEXT, 1),
        "preset_name": TEXT,
        "http_url": URL,
        "http_url_named": URL,
        "internal_hostname": TEXT,
        "internal_hostname_named": TEXT,
        "schedule_timeout": NUMBER,
        "max_run_time_minutes": {"type": "integer", "minimum": 1},
        "energy_schedule_name": TEXT,
    },
)
_CLUSTER = record(
    {
        "name": TEXT,
        "orgs": several(TEXT, 1),
        **{
            f"{service}_url": URL
            for service in ("registry", "storage", "users", "monitoring", "secrets", "disks", "buckets")
        },
        "resource_pool_types": several(
            record(
                {
                    "name": TEXT,
                    "min_size": COUNT,
                    "max_size": COUNT,
                    "cpu": NUMBER,
                    "memory": COUNT,
                    "disk_size": COUNT,
                }
            ),
            1,
        ),
        "resource_presets": several(
            record({"name": TEXT, "credits_per_hour": TEXT, "cpu": NUMBER, "memory": COUNT}), 1
        ),
    }
)
CONFIG = record(
    {
        **dict.fromkeys(("auth_url", "token_url", "logout_url", "headless_callback_url"), URL),
        "client_id": TEXT,
        "audience": TEXT,
        "authorized": {"const": True},
        "clusters": several(_CLUSTER, 1),
        "projects": several(record({"name": TEXT, "cluster_name": TEXT, "org_name": TEXT, "role": TEXT}), 1),
    }
)
SECRET = record({"key": TEXT, "owner": TEXT, "org_name": TEXT, "project_name": TEXT})
DISK = record(
    {
        "id": {"type": "string", "pattern": "^disk-"},
        "storage": COUNT,
        "owner": TEXT,
        "name": NULL_OR_TEXT,
        "status": {"enum": ["Pending", "Ready", "Broken"]},
        "org_name": TEXT,
        "project_name": TEXT,
        "created_at": TIME,
        "last_usage": {"anyOf": [{"type": "null"}, TIME]},
        "life_span": {"anyOf": [{"type": "null"}, NUMBER]},
    }
)
FLOW = record(dict.fromkeys(("id", "name", "owner", "cluster", "org_name", "project_name"), TEXT))
LIVE_JOB = record(
    {
        "id": TEXT,
        "yaml_id": TEXT,
        "project_id": TEXT,
        "multi": BOOL,
        "tags": several(TEXT),
        "raw_id": ANY_TEXT,
    }
)
FILE_STATUS = record(
    {
        "path": TEXT,
        "type": {"enum": ["FILE", "DIRECTORY"]},
        "length": COUNT,
        "modificationTime": COUNT,
        "permission": {"enum": ["read", "write", "manage"]},
    }
)
FILE = record({"FileStatus": FILE_STATUS})
#: A 4xx of any service; the storage names the error of its file system.
ERROR = record({"error": TEXT}, {"errno": TEXT})
NOTHING, BYTES = "nothing", "bytes"


class Lines:
    """An answer of one JSON document a line."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.item = item


#: What each request is answered when it is not refused: method, path, operation of the storage, status,
#: and shape.
ANSWERS: list[tuple[str, str, str, int, Any]] = [
    ("GET", "/config", "", 200, CONFIG),
    ("GET", "/jobs", "", 200, Lines(JOB)),
    ("GET", "/jobs", "", 200, record({"jobs": several(JOB)})),
    ("POST", "/jobs", "", 202, JOB),
    ("GET", "/jobs/job-[^/]+", "", 200, JOB),
    ("DELETE", "/jobs/job-[^/]+", "", 204, NOTHING),
    ("PUT", "/jobs/job-[^/]+/max_run_time_minutes", "", 204, NOTHING),
    ("GET", "/monitoring/[^/]+/(log_ws|attach)", "", 101, NOTHING),
    ("GET", "/monitoring/capacity", "", 200, {"type": "object", "additionalProperties": COUNT}),
    ("GET", "/secrets", "", 200, several(SECRET)),
    ("POST", "/secrets", "", 201, SECRET),
    ("DELETE", "/secrets/[^/]+", "", 204, NOTHING),
    ("GET", "/disks", "", 200, several(DISK)),
    ("POST", "/disks", "", 201, DISK),
    ("GET", "/disks/[^/]+", "", 200, DISK),
    ("DELETE", "/disks/[^/]+", "", 204, NOTHING),
    ("GET", "/flow/projects", "", 200, Lines(FLOW)),
    ("POST", "/flow/projects", "", 201, FLOW),
    ("GET", "/flow/projects/[^/]+", "", 200, FLOW),
    ("GET", "/flow/live_jobs", "", 200, Lines(LIVE_JOB)),
    ("PUT", "/flow/live_jobs/replace", "", 201, LIVE_JOB),
    ("GET", "/storage/.*", "GETFILESTATUS", 200, FILE),
    ("GET", "/storage/.*", "LISTSTATUS", 200, Lines(FILE)),
    ("GET", "/storage/.*", "OPEN", 200, BYTES),
    ("GET", "/storage/.*", "OPEN", 206, BYTES),
    ("PUT", "/storage/.*", "MKDIRS", 201, NOTHING),
    ("PUT", "/storage/.*", "CREATE", 201, NOTHING),
    ("PATCH", "/storage/.*", "WRITE", 200, NOTHING),
    ("POST", "/storage/.*", "RENAME", 204, NOTHING),
    ("DELETE", "/storage/.*", "DELETE", 204, NOTHING),
    ("GET", "/v2/_catalog", "", 200, record({"repositories": several(TEXT)})),
]


def check(method: str, path: str, operation: str, status: int, kind: str, body: bytes) -> None:
    """
    Check one answer. `path` is below /api/v1, `kind` the content type.

    Raises AssertionError for an answer without a schema, jsonschema.ValidationError for another shape.
    """
    if 400 <= status < 500:
        _validate(ERROR, body)
        return
    for known in ANSWERS:
        if known[0] == method and known[2:4] == (operation, status) and re.fullmatch(known[1], path):
            shape = known[4]
            if isinstance(shape, Lines) != (kind == "application/x-ndjson"):
                continue
            for document in body.splitlines() if isinstance(shape, Lines) else [body]:
                _validate(shape, document)
            return
    raise AssertionError(f"no schema for {status} {kind} of {method} {path} {operation}")


def _validate(shape: Any, document: bytes) -> None:
    if shape == NOTHING:
        assert document == b""
    elif shape != BYTES:
        item = shape.item if isinstance(shape, Lines) else shape
        jsonschema.validate(json.loads(document), item, jsonschema.Draft202012Validator)
