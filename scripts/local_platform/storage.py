"""The storage service: the files of `storage://CLUSTER/ORG/PROJECT`, kept as plain files."""

import asyncio
import errno
import json
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from aiohttp import web

from .names import PROJECTS, ApiError, project_path
from .state import State

CHUNK = 2**20
NDJSON = "application/x-ndjson"


def locate(root: Path, parts: list[str], *, itself: bool = False) -> Path:
    """
    Find the file of a storage path; ApiError 403 when a symbolic link leads out of the storage.

    `itself` is for what acts on a link and not on what it leads to: deleting and renaming.
    """
    path = root.joinpath(*parts)
    real, top = os.path.realpath(path.parent if itself and parts else path), os.path.realpath(root)
    if real != top and not real.startswith(top + os.sep):
        raise ApiError(403, f"{'/'.join(parts)!r} is a link that leads out of the storage")
    return path


def _status(path: Path, shown: str) -> dict[str, Any]:
    info = path.stat()
    return {
        "path": shown,
        "type": "DIRECTORY" if path.is_dir() else "FILE",
        "length": 0 if path.is_dir() else info.st_size,
        "modificationTime": int(info.st_mtime),
        "permission": "write",
    }


def _list(path: Path) -> bytes:
    lines = []
    for child in sorted(path.iterdir()):
        if child.exists():  # a dangling link would stop the whole listing
            lines.append(json.dumps({"FileStatus": _status(child, child.name)}) + "\n")
    return "".join(lines).encode()


def _delete(path: Path, recursive: bool) -> None:
    if path.is_dir() and not path.is_symlink():
        if not recursive:
            raise IsADirectoryError("the target is a directory; delete it recursively")
        shutil.rmtree(path)
    else:
        path.unlink()


def _rename(source: Path, target: Path) -> None:
    if target.is_dir():
        target = target / source.name
    source.rename(target)


class Storage:
    """Handlers of the storage service."""

    def __init__(self, state: State, prefix: str) -> None:
        self._state = state
        self._prefix = prefix
        self._operations: dict[
            tuple[str, str], Callable[[web.Request, Path], Awaitable[web.StreamResponse]]
        ] = {
            ("GET", "GETFILESTATUS"): self._stat,
            ("GET", "LISTSTATUS"): self._listing,
            ("GET", "OPEN"): self._open,
            ("GET", "GETDISKUSAGE"): self._usage,
            ("PUT", "MKDIRS"): self._mkdirs,
            ("PUT", "CREATE"): self._create,
            ("PATCH", "WRITE"): self._write,
            ("POST", "RENAME"): self._move,
            ("DELETE", "DELETE"): self._remove,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve `{storage_url}/ORG/PROJECT/path?op=…`; errors of the file system become 400 or 404."""
        name = request.query.get("op", "")
        operation = self._operations.get((request.method, name.upper()))
        if operation is None:
            raise ApiError(
                400, f"the local platform's storage has no operation {name!r} for {request.method}"
            )
        # The raw path: aiohttp decodes the matched one, and `%2e%2e` or `%2F` must be seen as sent.
        raw = request.rel_url.raw_path
        project, parts = project_path(raw.removeprefix(self._prefix), unquote(raw))
        try:
            path = locate(self._state.storage_of(project), parts, itself=name.upper() in ("DELETE", "RENAME"))
            return await operation(request, path)
        except FileNotFoundError as error:
            raise ApiError(404, f"{unquote(raw)!r} does not exist", "ENOENT") from error
        except OSError as error:
            text = error.strerror or str(error)
            raise ApiError(400, f"{unquote(raw)!r}: {text}", _errno_name(error)) from error

    async def _stat(self, request: web.Request, path: Path) -> web.StreamResponse:
        shown = unquote(request.rel_url.raw_path.removeprefix(self._prefix))
        return web.json_response(
            {"FileStatus": await asyncio.to_thread(_status, path, "/" + shown.lstrip("/"))}
        )

    async def _listing(self, _request: web.Request, path: Path) -> web.StreamResponse:
        return web.Response(body=await asyncio.to_thread(_list, path), content_type=NDJSON)

    async def _usage(self, _request: web.Request, path: Path) -> web.StreamResponse:
        return web.json_response((await asyncio.to_thread(shutil.disk_usage, path))._asdict())

    async def _mkdirs(self, _request: web.Request, path: Path) -> web.StreamResponse:
        await asyncio.to_thread(path.mkdir, parents=True, exist_ok=True)
        return web.Response(status=201)

    async def _remove(self, request: web.Request, path: Path) -> web.StreamResponse:
        if path in map(self._state.storage_of, PROJECTS):
            raise ApiError(400, "the project's storage itself cannot be deleted, only what is in it")
        await asyncio.to_thread(_delete, path, request.query.get("recursive", "true") != "false")
        return web.Response(status=204)

    async def _move(self, request: web.Request, path: Path) -> web.StreamResponse:
        destination = request.query.get("destination", "")
        # The query is decoded already.
        project, parts = project_path(destination.replace("%", "%25"), destination)
        await asyncio.to_thread(_rename, path, locate(self._state.storage_of(project), parts))
        return web.Response(status=204)

    async def _create(self, request: web.Request, path: Path) -> web.StreamResponse:
        with await asyncio.to_thread(path.open, "wb") as stream:
            await _copy(request, stream)
        return web.Response(status=201)

    async def _write(self, request: web.Request, path: Path) -> web.StreamResponse:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", request.headers.get("Content-Range", ""))
        if match is None:
            raise ApiError(400, "WRITE needs a header Content-Range: bytes FIRST-LAST/*")
        with await asyncio.to_thread(path.open, "r+b") as stream:
            stream.seek(int(match[1]))
            await _copy(request, stream)
        return web.Response(status=200)

    async def _open(self, request: web.Request, path: Path) -> web.StreamResponse:
        with await asyncio.to_thread(path.open, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            try:
                wanted = request.http_range
                # A missing Range gives slice(None, None); a suffix range a negative start.
                start, stop, _ = wanted.indices(size)
            except ValueError as error:
                raise ApiError(400, f"malformed Range {request.headers.get('Range')!r}") from error
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            if "Range" in request.headers:
                if start >= stop:
                    raise ApiError(
                        416, f"Range {request.headers['Range']!r} is outside of the file ({size} bytes)"
                    )
                response.set_status(206)
                response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            response.content_length = stop - start
            await response.prepare(request)
            stream.seek(start)
            while start < stop:
                data = await asyncio.to_thread(stream.read, min(CHUNK, stop - start))
                if not data:  # truncated meanwhile: the client sees an incomplete answer
                    break
                start += len(data)
                await response.write(data)
            return response


async def _copy(request: web.Request, stream: BinaryIO) -> None:
    async for data in request.content.iter_chunked(CHUNK):
        await asyncio.to_thread(stream.write, data)


def _errno_name(error: OSError) -> str | None:
    if isinstance(error, IsADirectoryError):
        return "EISDIR"
    return errno.errorcode.get(error.errno or 0)
