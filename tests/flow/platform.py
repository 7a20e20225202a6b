"""A platform to look at: it notes every request, and answers some as strictly as the real one does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apolo_sdk
from aiohttp import web
from aiohttp.test_utils import TestServer
from jose import jwt

from flow.workspace import Flow
from settings import layers

ORG, LOGIN, OTHER = "org", "login-project", "other-project"
PAGE = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><hr>nginx</body>\r\n</html>\r\n"
DISK = "disk-0f1e2d3c-0000-4000-8000-000000000001"


class Platform:
    """Two projects of one organisation, with what each has."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, list[str]], Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.secrets = {LOGIN: ["db"], OTHER: ["theirs"]}
        self.disks = {LOGIN: {"mlflow-db": DISK}, OTHER: {}}
        self.broken: tuple[int, str] | None = None
        """The answer to everything but the configuration, where it is to fail."""
        self.logs: list[list[bytes]] = []
        """The pieces that a log is read in, for each reading; the last one is for all further ones."""
        self.accepted = asyncio.Event()
        self.answers: asyncio.Event | None = None
        """Whether a job has been accepted; and what the answer waits for."""
        self.url = ""
        self.app = web.Application(middlewares=[self._note])
        self.app.add_routes(
            [
                web.get("/api/v1/config", self._config),
                web.get("/api/v1/jobs", self._list),
                web.post("/api/v1/jobs", self._create),
                web.get("/api/v1/jobs/{id}", self._job),
                web.get("/api/v1/secrets", self._secrets),
                web.get("/api/v1/disks/{disk}", self._disk),
                web.put("/api/v1/storage/{path:.*}", self._made),
                web.get("/api/v1/monitoring/{id}/log_ws", self._log),
            ]
        )

    def asked(self, path: str) -> list[dict[str, list[str]]]:
        """Return the queries of the requests for a path."""
        return [query for _, asked, query, _ in self.requests if re.search(path, asked)]

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        query = {name: request.query.getall(name) for name in request.query}
        body = (
            json.loads(await request.text()) if request.can_read_body and request.method == "POST" else None
        )
        self.requests.append((request.method, request.path, query, body))
        if self.broken and not request.path.endswith("/config"):
            status, text = self.broken
            return web.Response(status=status, text=text)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _config(self, _: web.Request) -> web.Response:
        api = f"{self.url}/api/v1"
        services = ("registry", "storage", "users", "monitoring", "secrets", "disks", "buckets")
        preset = {"name": "cpu-small", "credits_per_hour": "0", "cpu": 1, "memory": 2**30}
        cluster = {
            "name": "default",
            "orgs": [ORG],
            **{f"{service}_url": f"{api}/{service}" for service in services},
            "resource_pool_types": [],
            "resource_presets": [preset],
        }
        keys = ("auth_url", "token_url", "logout_url", "client_id", "audience", "headless_callback_url")
        projects = [
            {"name": name, "cluster_name": "default", "org_name": ORG, "role": "manager"}
            for name in (LOGIN, OTHER)
        ]
        auth = {key: f"{self.url}/{key}" for key in keys}
        return web.json_response({**auth, "authorized": True, "clusters": [cluster], "projects": projects})

    async def _list(self, request: web.Request) -> web.Response:
        tags, projects = set(request.query.getall("tag", [])), request.query.getall("project_name", [])
        statuses = request.query.getall("status", [])
        found = [
            one
            for one in self.jobs
            if tags <= set(one["tags"])
            and (not projects or one["project_name"] in projects)
            and (not statuses or one["status"] in statuses)
        ]
        return web.json_response({"jobs": found})

    async def _create(self, _: web.Request) -> web.Response:
        data = self.requests[-1][3]
        for disk in data.get("disk_volumes", []):
            if not re.search(r"/disk-[0-9a-f-]{36}\Z", disk["src_disk_uri"]):
                name = disk["src_disk_uri"].rpartition("/")[2]
                return web.json_response({"error": f"Missing disks: '{name}'"}, status=400)
        for volume in data.get("volumes", []):
            if f"/{data['project_name']}/" not in volume["src_storage_uri"]:
                return web.json_response({"error": "project mismatch"}, status=403)
        made = job(data["project_name"], tags=data["tags"], name=data["name"])
        self.jobs.append(made)
        self.accepted.set()
        if self.answers:
            await self.answers.wait()
        return web.json_response(made, status=202)

    async def _job(self, request: web.Request) -> web.Response:
        return web.json_response(next(j for j in self.jobs if j["id"] == request.match_info["id"]))

    async def _secrets(self, request: web.Request) -> web.Response:
        project = request.query.get("project_name")
        if not project:
            return web.json_response({"error": "{'project_name': DataError('is required')}"}, status=400)
        found = [
            {"key": key, "owner": "me", "org_name": ORG, "project_name": project}
            for key in self.secrets[project]
        ]
        return web.json_response(found)

    async def _disk(self, request: web.Request) -> web.Response:
        wanted, own = request.match_info["disk"], self.disks[request.query["project_name"]]
        found = own.get(wanted, wanted if wanted in own.values() else None)
        if not found:
            return web.json_response({"error": f"Disk {wanted} not found"}, status=404)
        when = "2026-01-01T00:00:00+00:00"
        disk = {"id": found, "storage": 1, "owner": "me", "status": "Ready", "created_at": when}
        return web.json_response({**disk, "org_name": ORG, "project_name": request.query["project_name"]})

    async def _made(self, _: web.Request) -> web.Response:
        return web.Response(status=201)

    async def _log(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        mark = request.query.get("separator", "=== Live logs ===").encode() + b"\n"
        for piece in self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]:
            await socket.send_bytes(piece.replace(b"MARK\n", mark))
        await socket.close()
        return socket


def job(
    project: str, *, status: str = "running", description: str | None = None, **other: Any
) -> dict[str, Any]:
    """Return a job as the platform's API shows it: null, not "", where there is no reason."""
    number = other.pop("number", 1)
    when = "2026-01-01T00:00:00+00:00"
    history = {"status": status, "reason": None, "description": description, "created_at": when}
    return {
        "id": f"job-00000000-0000-4000-8000-00000000000{number}",
        "owner": "me",
        "cluster_name": "default",
        "org_name": ORG,
        "project_name": project,
        "status": status,
        "statuses": [{"status": status, "transition_time": when, "reason": None, "description": None}],
        "history": {**history, "started_at": when, "restarts": 0},
        "container": {"image": "image", "resources": {"memory": 2**30, "cpu": 1.0}, "env": {}},
        "scheduler_enabled": False,
        "pass_config": False,
        "uri": f"job://default/{ORG}/{project}/x",
        "total_price_credits": "0",
        "price_credits_per_hour": "0",
        "tags": [],
        **other,
    }


@contextlib.asynccontextmanager
async def connected(platform: Platform, home: Path, monkeypatch: Any) -> AsyncIterator[Flow]:
    """Yield the flow of the current folder, logged in to the first project of a platform."""
    async with TestServer(platform.app) as server:
        platform.url = str(server.make_url("")).rstrip("/")
        token = jwt.encode({"identity": "me", "exp": 2**32}, "x" * 32)
        passed = {"token": token, "cluster": "default", "org_name": ORG, "project_name": LOGIN}
        passed["url"] = f"{platform.url}/api/v1"
        monkeypatch.setenv("APOLO_PASSED_CONFIG", base64.b64encode(json.dumps(passed).encode()).decode())
        async with await apolo_sdk.get(path=home / "login") as client:
            login: Any = SimpleNamespace(apolo_typed="apolo", environment={})
            yield Flow(layers.load(), login, client)
