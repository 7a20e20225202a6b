"""Secrets, disks, and what neuro-flow keeps of a flow: small JSON files of the state folder."""

import asyncio
import base64
import binascii
import json
import re
import shutil
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aiohttp import web

from .names import CLUSTER, ORG, PROJECT, USER, ApiError
from .state import State


def now() -> str:
    """Return the present time in ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat()


async def body(request: web.Request) -> dict[str, Any]:
    """Read a JSON object from the request; ApiError 400 for anything else."""
    try:
        data = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the request's body is not JSON") from error
    if not isinstance(data, dict):
        raise ApiError(400, "the request's body is not a JSON object")
    return data


def check_project(values: Any, cluster_key: str = "cluster_name") -> None:
    """Raise ApiError 403 if a body or query names another cluster, organisation or project than the one."""
    for key, only in ((cluster_key, CLUSTER), ("org_name", ORG), ("project_name", PROJECT)):
        if values.get(key) not in (None, "", only):
            raise ApiError(403, f"{key} {values[key]!r}: there is only {only!r} here")


class Secrets:
    """The secrets service. A value leaves it only for a job's environment or files, never by the API."""

    def __init__(self, state: State) -> None:
        self._state = state

    def value(self, key: str) -> bytes | None:
        """Return a secret's value, None if there is none of this name."""
        encoded = self._state.load("secrets.json", {}).get(key)
        return None if encoded is None else base64.b64decode(encoded)

    async def handle_list(self, request: web.Request) -> web.Response:
        """GET {secrets_url}."""
        check_project(request.query)
        return web.json_response([self._entry(key) for key in sorted(self._state.load("secrets.json", {}))])

    async def handle_add(self, request: web.Request) -> web.Response:
        """POST {secrets_url}: `{key, value (base64), org_name, project_name}`."""
        data = await body(request)
        check_project(data)
        key = data.get("key")
        if not isinstance(key, str) or not re.fullmatch(r"[a-zA-Z0-9_.-]{1,255}", key):
            raise ApiError(400, f"a secret's name holds letters, digits and _.- only, not {key!r}")
        try:
            base64.b64decode(data.get("value", ""), validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ApiError(400, f"the value of secret {key!r} is not base64") from error
        self._state.save("secrets.json", {**self._state.load("secrets.json", {}), key: data["value"]})
        return web.json_response(self._entry(key), status=201)

    async def handle_delete(self, request: web.Request) -> web.Response:
        """DELETE {secrets_url}/KEY."""
        check_project(request.query)
        key = request.match_info["key"]
        secrets = self._state.load("secrets.json", {})
        if key not in secrets:
            raise ApiError(404, f"Secret {key!r} not found")
        self._state.save("secrets.json", {name: value for name, value in secrets.items() if name != key})
        return web.Response(status=204)

    @staticmethod
    def _entry(key: str) -> dict[str, str]:
        return {"key": key, "owner": USER, "org_name": ORG, "project_name": PROJECT}


class Disks:
    """The disks service: a disk is a folder."""

    def __init__(self, state: State, in_use: Callable[[str], str | None]) -> None:
        self._state = state
        self._in_use = in_use

    def folder(self, wanted: str) -> Path | None:
        """Return the folder of a disk, by id or name, and note its use; None if there is no such disk."""
        disk = self._find(wanted)
        if disk is None:
            return None
        disk["last_usage"] = now()
        self._state.save("disks.json", {**self._state.load("disks.json", {}), disk["id"]: disk})
        return self._state.disks / str(disk["id"])

    def _find(self, wanted: str) -> dict[str, Any] | None:
        disks: dict[str, dict[str, Any]] = self._state.load("disks.json", {})
        return next((disk for disk in disks.values() if wanted in (disk["id"], disk.get("name"))), None)

    def _get(self, request: web.Request) -> dict[str, Any]:
        check_project(request.query)
        disk = self._find(request.match_info["disk"])
        if disk is None:
            raise ApiError(404, f"Disk {request.match_info['disk']!r} not found")
        return disk

    async def handle_list(self, request: web.Request) -> web.Response:
        """GET {disks_url}."""
        check_project(request.query)
        return web.json_response(list(self._state.load("disks.json", {}).values()))

    async def handle_get(self, request: web.Request) -> web.Response:
        """GET {disks_url}/ID_OR_NAME."""
        return web.json_response(self._get(request))

    async def handle_create(self, request: web.Request) -> web.Response:
        """POST {disks_url}: `{storage (bytes), life_span (seconds), name, org_name, project_name}`."""
        data = await body(request)
        check_project(data)
        name = data.get("name")
        if not isinstance(data.get("storage"), int):
            raise ApiError(400, f"a disk's storage is a number of bytes, not {data.get('storage')!r}")
        if name is not None and not (isinstance(name, str) and re.fullmatch(r"[a-z](-?[a-z0-9])*", name)):
            raise ApiError(400, f"{name!r} is no name for a disk: small letters, digits and single - only")
        if name is not None and self._find(name):
            raise ApiError(400, f"a disk with the name {name!r} exists already")
        disk = {
            "id": f"disk-{uuid.uuid4()}",
            "storage": data["storage"],
            "owner": USER,
            "name": name,
            "status": "Ready",
            "org_name": ORG,
            "project_name": PROJECT,
            "created_at": now(),
            "last_usage": None,
            "life_span": data.get("life_span"),
        }
        (self._state.disks / str(disk["id"])).mkdir(mode=0o700)
        self._state.save("disks.json", {**self._state.load("disks.json", {}), str(disk["id"]): disk})
        return web.json_response(disk, status=201)

    async def handle_delete(self, request: web.Request) -> web.Response:
        """DELETE {disks_url}/ID_OR_NAME; 400 while a job uses the disk."""
        disk = self._get(request)
        job = self._in_use(disk["id"])
        if job:
            raise ApiError(400, f"disk {disk['id']} is in use by {job}")
        left = {key: other for key, other in self._state.load("disks.json", {}).items() if key != disk["id"]}
        self._state.save("disks.json", left)
        await asyncio.to_thread(shutil.rmtree, self._state.disks / disk["id"], ignore_errors=True)
        return web.Response(status=204)


class Flows:
    """The flow service: projects of neuro-flow and the jobs that their live.yaml declares."""

    def __init__(self, state: State) -> None:
        self._state = state

    def _projects(self) -> dict[str, dict[str, Any]]:
        projects: dict[str, dict[str, Any]] = self._state.load("flow_projects.json", {})
        return projects

    async def handle_projects(self, request: web.Request) -> web.Response:
        """GET flow/projects."""
        check_project(request.query, "cluster")
        name = request.query.get("name")
        found = [project for project in self._projects().values() if name in (None, project["name"])]
        return web.Response(
            text="".join(json.dumps(project) + "\n" for project in found), content_type="application/x-ndjson"
        )

    async def handle_project(self, request: web.Request) -> web.Response:
        """GET flow/projects/by_name?name=… and flow/projects/ID."""
        wanted = request.match_info["project"]
        key = "id"
        if wanted == "by_name":
            check_project(request.query, "cluster")
            key, wanted = "name", request.query.get("name", "")
        for project in self._projects().values():
            if project[key] == wanted:
                return web.json_response(project)
        raise ApiError(404, f"flow project {wanted!r} not found")

    async def handle_create_project(self, request: web.Request) -> web.Response:
        """POST flow/projects: `{name, cluster, org_name, project_name}`."""
        data = await body(request)
        check_project(data, "cluster")
        name = data.get("name")
        if not isinstance(name, str) or not name:
            raise ApiError(400, "a flow project needs a name")
        projects = self._projects()
        if any(project["name"] == name for project in projects.values()):
            raise ApiError(400, f"flow project {name!r} exists already")
        project = {
            "id": f"project-{uuid.uuid4()}",
            "name": name,
            "owner": USER,
            "cluster": CLUSTER,
            "org_name": ORG,
            "project_name": PROJECT,
        }
        self._state.save("flow_projects.json", {**projects, project["id"]: project})
        return web.json_response(project, status=201)

    async def handle_live_jobs(self, request: web.Request) -> web.Response:
        """GET flow/live_jobs?project_id=…."""
        wanted = request.query.get("project_id")
        jobs = [job for job in self._state.load("live_jobs.json", {}).values() if job["project_id"] == wanted]
        return web.Response(
            text="".join(json.dumps(job) + "\n" for job in jobs), content_type="application/x-ndjson"
        )

    async def handle_replace_live_job(self, request: web.Request) -> web.Response:
        """PUT flow/live_jobs/replace: `{project_id, yaml_id, tags, multi, raw_id}`."""
        data = await body(request)
        project_id, yaml_id = data.get("project_id"), data.get("yaml_id")
        if project_id not in self._projects() or not isinstance(yaml_id, str):
            raise ApiError(400, "a live job needs the id of a flow project and a yaml_id")
        jobs = self._state.load("live_jobs.json", {})
        key = f"{project_id}/{yaml_id}"
        job = {
            "id": jobs.get(key, {}).get("id") or f"live-job-{uuid.uuid4()}",
            "yaml_id": yaml_id,
            "project_id": project_id,
            "multi": bool(data.get("multi")),
            "tags": data.get("tags") or [],
            "raw_id": data.get("raw_id") or "",
        }
        self._state.save("live_jobs.json", {**jobs, key: job})
        return web.json_response(job)
