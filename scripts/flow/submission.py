"""A job as neuro-flow would submit it, read off the line that `neuro-flow run --dry-run` prints."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field

from settings.action import PROGRAM
from settings.values import OF_A_DEPLOYMENT, OF_THE_ACTION


def escaped(text: str) -> str:
    """Return a value as a job's environment has to hold it, to arrive as it is.

    Kubernetes makes one `$` of `$$`, and puts a value for `$(NAME)`; never in what comes from a secret.
    action.yaml does the same.
    """
    return text.replace("$", "$$")


def unescaped(text: str) -> str:
    """Return a value as it arrives in a job."""
    return text.replace("$$", "$")


@dataclass
class Submission:
    """What an `apolo run …` line says: `options` without the leading `--`, an empty value for a mere flag.

    The program, which `flow/program.py` makes, is left out of `env`.
    """

    options: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    image: str = ""

    @property
    def project(self) -> str:
        """The platform's project that the job runs in."""
        return self.options.get("project", "")


def parse_dry_run(line: str) -> Submission:
    """Return what an `apolo run …` line says.

    Raises:
        ValueError: the line is not of that form.
    """
    words = iter(shlex.split(line))
    if [next(words, ""), next(words, "")] != ["apolo", "run"]:
        raise ValueError(f"not an apolo run line: {line[:80]!r}")
    found = Submission()
    for word in words:
        if not word.startswith("--"):
            found.image = word
            return found
        name, _, value = word[2:].partition("=")
        if name == "env":
            key, _, text = value.partition("=")
            if not key.startswith(PROGRAM):
                found.env[key] = unescaped(text)
        elif name == "volume":
            found.volumes.append(value)
        elif name == "tag":
            found.tags.add(value)
        else:
            found.options[name] = value
    raise ValueError(f"no image in {line[:80]!r}")


def inputs(submission: Submission, variables: dict[str, str] = OF_THE_ACTION) -> dict[str, str]:
    """Return the action's inputs as they were evaluated, by name."""
    env, options = submission.env, submission.options
    return {
        **{name: env.get(variable, "") for variable, name in variables.items()},
        "envs": json.dumps({name: text for name, text in env.items() if name not in variables}),
        "volumes": json.dumps(submission.volumes),
        "http_auth": str("no-http-auth" not in options),
        "life_span": options.get("life-span", ""),
        "job_name": options.get("name", ""),
        "preset": options.get("preset", ""),
        "image": submission.image,
        "restart": options.get("restart", "never"),
        "browse": str("browse" in options),
    }


def inputs_of_deployment(submission: Submission) -> dict[str, str]:
    """Return the inputs of deploy.yaml as they were evaluated, by name."""
    return inputs(submission, OF_A_DEPLOYMENT)
