"""The live flow as it is written: which file that is, the server's job in it, and that job's `args`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from settings.action import RENDERED, RENDERED_DEPLOY, entries, find

JOB, MODEL_JOB = "mlflow_server", "mlflow_model"
"""What the jobs of the server and of models are called where nobody has chosen other ids for them."""
PROJECT_TAG = "platform-project:${{ project.project_name }}"
"""A tag by which jobs of copies of one flow differ: neuro-flow puts it on all of them, and looks for it."""
CALL, MODEL_CALL = f"ws:{RENDERED}", f"ws:{RENDERED_DEPLOY}"
"""What the `action:` of these jobs says; neuro-flow takes it without `.yaml`, too."""


def flow_dir() -> Path:
    """Return the folder that neuro-flow reads: where both exist, `.apolo` wins without a word."""
    return Path(".apolo") if Path(".apolo").is_dir() else Path(".neuro")


def live_file(folder: Path) -> Path | None:
    """Return the live flow in the folder, as neuro-flow looks it up, or None."""
    return next((f for f in (folder / "live.yml", folder / "live.yaml") if f.is_file()), None)


def project_file(folder: Path) -> Path | None:
    """Return the file that says the flow's project, as neuro-flow looks it up, or None."""
    found = (at / f"project.{end}" for at in (folder, Path()) for end in ("yml", "yaml"))
    return next(filter(Path.is_file, found), None)


@dataclass(frozen=True)
class ActionJob:
    """A job of the flow that calls an action: its id, what it calls, the nodes of both and of its `args`."""

    name: str
    action: str
    key: yaml.Node
    call: yaml.Node
    args: yaml.Node | None


def action_jobs(root: yaml.Node | None) -> list[ActionJob]:
    """Return the jobs of a flow that call an action, in the order of the file."""
    found = []
    for name, (key, job) in entries(find(root, "jobs")).items():
        call = find(job, "action")
        if isinstance(call, yaml.ScalarNode):
            found.append(ActionJob(name, call.value, key, call, find(job, "args")))
    return found


def server_jobs(root: yaml.Node | None, call: str = CALL) -> list[str]:
    """Return the ids of the jobs that call the rendered action."""
    return [job.name for job in action_jobs(root) if job.action in (call, call.removesuffix(".yaml"))]


def server_job(root: yaml.Node | None) -> str:
    """Return the id of the server's job: the one that calls the rendered action, whatever it is called."""
    callers = server_jobs(root)
    return JOB if JOB in callers or not callers else callers[0]


def model_job(root: yaml.Node | None) -> str:
    """Return the id of the job that serves models: the one that calls that rendered action."""
    callers = server_jobs(root, MODEL_CALL)
    return MODEL_JOB if MODEL_JOB in callers or not callers else callers[0]
