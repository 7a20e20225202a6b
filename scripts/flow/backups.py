"""The backups that there are of a running server's store, whoever has made them."""

from __future__ import annotations

import calendar
import re
import time

import apolo_sdk
import yarl

from flow import server
from flow.store_task import backups_of, own_tags
from flow.submission import Submission
from flow.workspace import Flow, Job


async def on_volume(flow: Flow, folder: yarl.URL) -> dict[str, int]:
    """Return the sizes in bytes of the backups that a folder has, by name."""
    found = {}
    try:
        async with flow.client.storage.list(folder) as listed:
            async for file in listed:
                if file.is_file() and file.name.endswith((".zip", ".db")) and not file.name.startswith("."):
                    found[file.name] = file.size
    except apolo_sdk.ResourceNotFound:
        pass
    return dict(sorted(found.items()))


def made(name: str) -> float | None:
    """Return when a backup was made, in seconds since 1970, None where its name does not say so."""
    stamp = re.search(r"-(\d{8}T\d{6}Z)", name)
    if not stamp or "-damaged-" in name:
        return None
    try:
        return float(calendar.timegm(time.strptime(stamp[1], "%Y%m%dT%H%M%SZ")))
    except ValueError:
        return None


async def age_of_newest(flow: Flow, job: Job) -> float | None:
    """Return the age of the newest backup of a server's store in seconds, None where there is none."""
    volumes = [
        f"{volume.storage_uri}:{volume.container_path}:{'ro' if volume.read_only else 'rw'}"
        for volume in job.container.volumes
    ]
    where = backups_of(flow, Submission({}, server.env_of(job), volumes), own_tags()["project"])
    times = [stamp for name in await on_volume(flow, where.uri) if (stamp := made(name))]
    return max(0.0, time.time() - max(times)) if times else None
