"""Settings drift: in what a running job differs from the one that today's settings would start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from common.console import format_duration, parse_duration
from flow.references import volumes_of
from flow.submission import Submission, inputs, unescaped
from flow.workspace import Flow, Job
from settings.action import PROGRAM
from settings.layers import redact
from settings.values import OF_A_DEPLOYMENT, OF_THE_ACTION

if TYPE_CHECKING:
    import apolo_sdk


def mounts(mounted: apolo_sdk.Container | apolo_sdk.VolumeParseResult) -> list[str]:
    """Return what a job mounts, in words that a job and a volume of the settings have in common."""
    mode = {True: "ro", False: "rw"}
    return sorted(
        [f"{v.storage_uri}:{v.container_path}:{mode[v.read_only]}" for v in mounted.volumes]
        + [f"{v.disk_uri}:{v.container_path}:{mode[v.read_only]}" for v in mounted.disk_volumes]
        + [f"{v.secret_uri}:{v.container_path}" for v in mounted.secret_files]
    )


def _settings(env: dict[str, str], volumes: list[str], other: dict[str, str]) -> dict[str, str]:
    names = OF_A_DEPLOYMENT if "MLFLOW_DEPLOY_MODEL" in env else OF_THE_ACTION
    by_name = {names[name]: value for name, value in env.items() if name in names}
    envs = {name: value for name, value in sorted(env.items()) if name not in names}
    return {**by_name, "envs": json.dumps(envs), "volumes": json.dumps(volumes), **other}


def is_ours(job: Job) -> bool:
    """Tell whether our action started a job; an older one's has the same tags, once it was taken over."""
    return "MLFLOW_ACTION_MODE" in job.container.env


def of_job(job: Job) -> dict[str, str]:
    """Return the settings that a running job was started with."""
    container = job.container
    plain = {n: unescaped(value) for n, value in container.env.items() if not n.startswith(PROGRAM)}
    env = {**plain, **{name: str(uri) for name, uri in container.secret_env.items()}}
    other = {
        "http_auth": str(bool(container.http and container.http.requires_auth)),
        "image": container.image.as_docker_url(),
        "restart": str(job.restart_policy),
        "job_name": job.name or "",
        "preset": job.preset_name or "",
    }
    return _settings(env, mounts(container), other)


async def of_submission(flow: Flow, submission: Submission) -> dict[str, str]:
    """Return the settings that today's job would be started with, in the same words."""
    parse, evaluated = flow.client.parse, inputs(submission)
    volumes = await volumes_of(flow, submission.volumes)
    env = parse.envs([f"{name}={value}" for name, value in submission.env.items()])
    other = {
        "http_auth": evaluated["http_auth"],
        "image": parse.remote_image(submission.image).as_docker_url(),
        "restart": evaluated["restart"],
        "job_name": evaluated["job_name"],
        "preset": evaluated["preset"] or next(iter(flow.client.config.presets)),
    }
    return _settings(
        {**env.env, **{n: str(uri) for n, uri in env.secret_env.items()}}, mounts(volumes), other
    )


async def drift(flow: Flow, job: Job) -> list[str]:
    """Return a line for each setting that differs, old and new value, secrets redacted.

    A life span counts only where it is to be longer than the job's: `mlflow-extend` lengthens that one.
    """
    async with flow.rendered():
        submission = await flow.evaluate()
    return await differences(flow, job, submission)


async def differences(flow: Flow, job: Job, submission: Submission) -> list[str]:
    """Return the same for a job, the server's or a model's, that today's settings have been evaluated for."""
    then, now = of_job(job), await of_submission(flow, submission)
    lines = [
        f"{name}: {redact(then.get(name, ''))} → {redact(now.get(name, ''))}"
        for name in now
        if then.get(name, "") != now[name]
    ]
    span = parse_duration(submission.options["life-span"]) if "life-span" in submission.options else 0
    if job.life_span and span > job.life_span:
        lines.append(f"life_span: {format_duration(job.life_span)} → {format_duration(span)}")
    return lines
