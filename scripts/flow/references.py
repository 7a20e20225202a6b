"""What the references in a submission stand for on the platform: of which project, and by which id."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from common.console import Failure, Problem
from common.lazy import lazily
from settings import values

if TYPE_CHECKING:
    import apolo_sdk
    import yarl

    from flow.workspace import Flow
else:
    apolo_sdk, yarl = lazily("apolo_sdk"), lazily("yarl")


def project_of(uri: yarl.URL) -> tuple[str | None, str | None, str]:
    """Return the cluster, the organisation and the project in the full URI of a secret or disk."""
    return uri.host, uri.parts[-3] if len(uri.parts) > 3 else None, uri.parts[-2]


async def disk_id(flow: Flow, uri: yarl.URL) -> str | None:
    """Return the id of a disk that a URI names by id or name, None where there is none."""
    cluster, org, project = project_of(uri)
    try:
        disk = await flow.client.disks.get(uri.name, cluster_name=cluster, org_name=org, project_name=project)
    except apolo_sdk.ResourceNotFound:
        return None
    return disk.id


async def volumes_of(flow: Flow, references: Iterable[str]) -> apolo_sdk.VolumeParseResult:
    """Return what references mount, as a job has it: the platform knows disks there by id only.

    `apolo run`, which starts the server, looks the ids up; `jobs.start` of the SDK does not.

    Raises:
        Failure: there is no disk of such a name.
    """
    parsed = flow.client.parse.volumes(list(references))
    disks = []
    for volume in parsed.disk_volumes:
        found = await disk_id(flow, volume.disk_uri)
        if found is None:
            raise Failure(no_disk(flow, volume.disk_uri))
        disks.append(dataclasses.replace(volume, disk_uri=volume.disk_uri.with_name(found)))
    return dataclasses.replace(parsed, disk_volumes=disks)


def no_disk(flow: Flow, uri: yarl.URL, source: str = "") -> Problem:
    """Return the problem that a disk is not there."""
    words = _in_project(flow, uri)
    fix = f"`{flow.login.apolo_typed} disk create{words} --timeout-unused 0 --name {uri.name} 10G` makes it"
    return Problem(f"there is no disk {uri.name}", fix, source)


async def problems(flow: Flow, inputs: dict[str, str], sources: dict[str, str]) -> AsyncIterator[Problem]:
    """Yield what is wrong with the storage, the disks and the secrets that a job refers to.

    `sources` says of each input where its value came from.
    """
    parsed = flow.client.parse.volumes(values.references(inputs["volumes"]))
    for volume in parsed.volumes:
        if _outside(flow, volume.storage_uri):
            folder = f"storage:/{flow.client.config.org_name}/{flow.project}/…"
            what = f"{volume.storage_uri} is not of the project {flow.project}, in which the job runs"
            yield Problem(what, f"write {folder} for a folder of that", sources["volumes"])
    for disk in parsed.disk_volumes:
        if await disk_id(flow, disk.disk_uri) is None:
            yield no_disk(flow, disk.disk_uri, sources["volumes"])
    known: dict[object, set[str]] = {}
    for setting, reference in values.secret_references(inputs):
        uri = flow.client.parse.str_to_uri(reference, allowed_schemes=("secret",))
        cluster, org, project = owner = project_of(uri)
        if owner not in known:
            listed = flow.client.secrets.list(cluster_name=cluster, org_name=org, project_name=project)
            async with listed as secrets:
                known[owner] = {secret.key async for secret in secrets if secret.project_name == project}
        if uri.name not in known[owner]:
            fix = f"`{flow.login.apolo_typed} secret add{_in_project(flow, uri)} {uri.name} @FILE` makes it"
            yield Problem(f"there is no secret {uri.name}", fix, sources[setting])


def _outside(flow: Flow, uri: yarl.URL) -> bool:
    """Tell whether storage is of another project than the job's: a job that mounts such is refused."""
    config = flow.client.config
    return (uri.host, *uri.parts[1:3]) != (config.cluster_name, config.org_name, flow.project)


def _in_project(flow: Flow, uri: yarl.URL) -> str:
    """Return the option that names a project to `apolo`, where it is not the login's own."""
    project = project_of(uri)[2]
    return "" if project == flow.client.config.project_name else f" --project {project}"
