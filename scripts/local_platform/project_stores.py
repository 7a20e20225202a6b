"""Secrets, disks, and what neuro-flow keeps of a flow: small JSON files of the state folder."""

import asyncio
import base64
import binascii
import json
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aiohttp import web

from .names import CLUSTER, USER, ApiError, Project, project_of
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


def belongs(entry: Mapping[str, Any], project: Project) -> bool:
    """Whether a stored disk or flow is of the project."""
    return (entry["org_name"], entry["project_name"]) == (project.org, project.name)


#: Keys of a flow project by which flow/projects can be asked for.
_OF_A_FLOW = ("name", "owner", "cluster", "org_name", "project_name")


class Secrets:
    """The secrets service. A value leaves it only for a job's environment or files, never by the API."""

    def __init__(self, state: State) -> None:
        self._state = state

    def value(self, project: Project, key: str) -> bytes | None:
        """Return a secret's value, None if there is none of this name in the project."""
        encoded = self._load(project).get(key)
        return None if encoded is None else base64.b64decode(encoded)

    def _load(self, project: Project) -> dict[str, str]:
        secrets: dict[str, str] = self._state.load(self._state.secrets_of(project), {})
        return secrets

    async def handle_list(self, request: web.Request) -> web.Response:
        """GET {secrets_url}?org_name=…&project_name=…."""
        project = project_of(request.query)
        return web.json_response([self._entry(project, key) for key in sorted(self._load(project))])

    async def handle_add(self, request: web.Request) -> web.Response:
        """POST {secrets_url}: `{key, value (base64), org_name, project_name}`."""
        data = await body(request)
        project = project_of(data)
        key = data.get("key")
        if not isinstance(key, str) or not re.fullmatch(r"[a-zA-Z0-9_.-]{1,255}", key):
            raise ApiError(400, f"a secret's name holds letters, digits and _.- only, not {key!r}")
        try:
            base64.b64decode(data.get("value", ""), validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ApiError(400, f"the value of secret {key!r} is not base64") from error
        self._state.save(self._state.secrets_of(project), {**self._load(project), key: data["value"]})
        return web.json_response(self._entry(project, key), status=201)

    async def handle_delete(self, request: web.Request) -> web.Response:
        """DELETE {secrets_url}/KEY?org_name=…&project_name=…."""
        project = project_of(request.query)
        key = request.match_info["key"]
        secrets = self._load(project)
        if secrets.pop(key, None) is None:
            raise ApiError(404, f"Secret {key!r} not found")
        self._state.save(self._state.secrets_of(project), secrets)
        return web.Response(status=204)

    @staticmethod
    def _entry(project: Project, key: str) -> dict[str, str]:
        return {"key": key, "owner": USER, "org_name": project.org, "project_name": project.name}


class Disks:
    """The disks service: a disk is a folder."""

    def __init__(self, state: State, in_use: Callable[[str], str | None]) -> None:
        self._state = state
        self._in_use = in_use

    def folder(self, project: Project, wanted: str) -> Path | None:
        """Return the folder of a project's disk, by its id, and note its use; None if there is none."""
        disk = self._find(project, wanted)
        if disk is None or disk["id"] != wanted:
            return None
        disk["last_usage"] = now()
        self._state.save("disks.json", {**self._state.load("disks.json", {}), disk["id"]: disk})
        return self._state.disks / str(disk["id"])

    def _of(self, project: Project) -> list[dict[str, Any]]:
        return [disk for disk in self._state.load("disks.json", {}).values() if belongs(disk, project)]

    def _find(self, project: Project, wanted: str) -> dict[str, Any] | None:
        return next((disk for disk in self._of(project) if wanted in (disk["id"], disk.get("name"))), None)

    def _get(self, request: web.Request) -> dict[str, Any]:
        disk = self._find(project_of(request.query), request.match_info["disk"])
        if disk is None:
            raise ApiError(404, f"Disk {request.match_info['disk']!r} not found")
        return disk

    async def handle_list(self, request: web.Request) -> web.Response:
        """GET {disks_url}?org_name=…&project_name=…."""
        return web.json_response(self._of(project_of(request.query)))

    async def handle_get(self, request: web.Request) -> web.Response:
        """GET {disks_url}/ID_OR_NAME."""
        return web.json_response(self._get(request))

    async def handle_create(self, request: web.Request) -> web.Response:
        """POST {disks_url}: `{storage (bytes), life_span (seconds), name, org_name, project_name}`."""
        data = await body(request)
        project = project_of(data)
        name = data.get("name")
        if not isinstance(data.get("storage"), int):
            raise ApiError(400, f"a disk's storage is a number of bytes, not {data.get('storage')!r}")
        if name is not None and not (isinstance(name, str) and re.fullmatch(r"[a-z](-?[a-z0-9])*", name)):
            raise ApiError(400, f"{name!r} is no name for a disk: small letters, digits and single - only")
        if name is not None and self._find(project, name):
            raise ApiError(400, f"a disk with the name {name!r} exists already")
        disk = {
            "id": f"disk-{uuid.uuid4()}",
            "storage": data["storage"],
            "owner": USER,
            "name": name,
            "status": "Ready",
            "org_name": project.org,
            "project_name": project.name,
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
        """GET flow/projects: those that have the values which the query gives."""
        wanted = {key: request.query[key] for key in _OF_A_FLOW if request.query.get(key)}
        found = [flow for flow in self._projects().values() if wanted.items() <= flow.items()]
        return web.Response(
            text="".join(json.dumps(project) + "\n" for project in found), content_type="application/x-ndjson"
        )

    async def handle_project(self, request: web.Request) -> web.Response:
        """GET flow/projects/by_name?name=…&cluster=…&org_name=…&project_name=… and flow/projects/ID."""
        wanted = request.match_info["project"]
        if wanted == "by_name":
            wanted = request.query.get("name", "")
            flow = self._find(project_of(request.query, "cluster"), wanted)
        else:
            flow = self._projects().get(wanted)
        if flow is None:
            raise ApiError(404, f"flow project {wanted!r} not found")
        return web.json_response(flow)

    def _find(self, project: Project, name: str) -> dict[str, Any] | None:
        flows = self._projects().values()
        return next((flow for flow in flows if flow["name"] == name and belongs(flow, project)), None)

    async def handle_create_project(self, request: web.Request) -> web.Response:
        """POST flow/projects: `{name, cluster, org_name, project_name}`."""
        data = await body(request)
        project = project_of(data, "cluster")
        name = data.get("name")
        if not isinstance(name, str) or not name:
            raise ApiError(400, "a flow project needs a name")
        if self._find(project, name):
            raise ApiError(400, f"flow project {name!r} exists already")
        flow = {
            "id": f"project-{uuid.uuid4()}",
            "name": name,
            "owner": USER,
            "cluster": CLUSTER,
            "org_name": project.org,
            "project_name": project.name,
        }
        self._state.save("flow_projects.json", {**self._projects(), flow["id"]: flow})
        return web.json_response(flow, status=201)

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
        return web.json_response(job, status=201)
