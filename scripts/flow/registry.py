"""What the registry of the running server says of a model: its version, its flavours, its run and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from common.console import Failure, Problem, one_line
from common.lazy import lazily
from flow import server
from flow.workspace import Flow, Job
from settings.layers import redact

if TYPE_CHECKING:
    import aiohttp
else:
    aiohttp = lazily("aiohttp")

LOGGED = r"m-[0-9a-f]{32}"
"""The id of a logged model of MLflow 3, which needs no name in the registry."""
LIMIT = 30.0
"""Seconds for one answer of the server."""


@dataclass(frozen=True)
class Model:
    """A model as it was asked for, and with what the registry says of it."""

    name: str
    """Its registered name, or the id of a logged model, or `RUN/PATH` of a run's artifact."""
    version: str = ""
    """A number; as it was asked for also a stage or `latest`, and empty for the newest."""
    alias: str = ""
    uri: str = ""
    """What is served: `models:/NAME/VERSION` and the like."""
    run: str = ""
    created: float = 0.0
    """When it was registered or logged, in Unix seconds."""
    flavors: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    newest: str = ""

    @property
    def registered(self) -> bool:
        """Whether it has a name in the registry."""
        return not (self.uri.startswith("runs:") or re.fullmatch(LOGGED, self.name))

    def __str__(self) -> str:
        return f"{self.name} version {self.version}" if self.version else self.name

    def described(self) -> str:
        """Return what was found, in one line."""
        words = [str(self) + (f" ({', '.join(self.flavors)})" if self.flavors else "")]
        if self.alias:
            words.append(f"which is @{self.alias} now")
        if self.created:
            words.append(f"made {time.strftime('%F %H:%M', time.localtime(self.created))}")
        if self.run:
            words.append(f"by run {self.run}")
        found = [f"{name} {value:.4g}" for name, value in sorted(self.metrics.items())[:6]]
        return ", ".join(words) + (f": {', '.join(found)}" if found else "")


def parse(text: str) -> Model:
    """Return what a user means by `iris`, `iris/3`, `iris@champion`, `models:/…`, `m-…` or `runs:/…`.

    Raises:
        ValueError: it is none of these.
    """
    plain = text.strip()
    if match := re.fullmatch(r"runs:/+(\w+/.+)", plain):
        return Model(match[1], uri=f"runs:/{match[1]}", run=match[1].partition("/")[0])
    plain = re.sub("^models:/+", "", plain)
    match = re.fullmatch(r"(?P<name>[^/:@]+)(?:/(?P<version>\w+)|@(?P<alias>[\w.-]+))?", plain)
    if not match:
        raise ValueError(f"{text!r} is no model")
    return Model(match["name"], match["version"] or "", match["alias"] or "")


class Registry:
    """The registry of a running server."""

    def __init__(self, flow: Flow, job: Job) -> None:
        self.flow, self.job = flow, job

    async def _get(self, path: str, params: dict[str, str]) -> tuple[int, str]:
        """Return the status and the text of an answer of the server.

        Raises:
            Failure: it does not answer, or not to us.
        """
        headers = await server.authorization(self.flow, self.job)
        url = server.address(self.job) + path
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(LIMIT)) as session,
                session.get(url, params=params, headers=headers, allow_redirects=False) as answer,
            ):
                status, text = answer.status, await answer.text(errors="replace")
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            fix = f"see `{self.flow.settings.make('mlflow-status')}`"
            what = f"the server does not answer: {one_line(str(error)) or type(error).__name__}"
            raise Failure(Problem(what, fix, server.address(self.job))) from None
        if status in (401, 403):
            missing = server.missing_credentials(self.flow, self.job) or "look at who may read the registry"
            raise Failure(Problem(f"the server answers {status}", missing, server.address(self.job)))
        return status, text

    async def ask(self, path: str, **params: str) -> dict[str, Any] | None:
        """Return what the tracking API answers, None where there is no such thing.

        Raises:
            Failure: it answers otherwise.
        """
        status, text = await self._get(f"/api/2.0/mlflow/{path}", params)
        with contextlib.suppress(ValueError):
            found: dict[str, Any] = json.loads(text)
            if status == 200:
                return found
            missing = "DOES_NOT_EXIST" in str(found.get("error_code"))
            if missing or re.search(r"alias \S+ not found", str(found.get("message"))):  # of MLflow 3.17.2
                return None
        what = f"{path} answers {status} {redact(one_line(text)[:200])}"
        fix = f"see `{self.flow.settings.make('mlflow-logs')}`"
        raise Failure(Problem(what, fix, server.address(self.job)))

    async def find(self, text: str) -> Model:
        """Return the model that a text stands for, as the registry has it now.

        Raises:
            Failure: there is no such model, version or alias, or it cannot be told.
        """
        usage = "write MODEL=iris, iris/3, iris@champion, models:/m-… or runs:/…/model"
        try:
            asked = parse(text)
        except ValueError:
            raise Failure(Problem(f"MODEL is {text!r}", usage, "MODEL")) from None
        if asked.uri:
            return await self._with_run(asked)
        if re.fullmatch(LOGGED, asked.name):
            return await self._logged(asked)
        version = await self._version(asked)
        number = str(version["version"])
        found = replace(
            asked,
            version=number,
            uri=f"models:/{asked.name}/{number}",
            run=version.get("run_id", ""),
            created=int(version.get("creation_timestamp", 0)) / 1000,
            newest=await self.newest(asked.name),
            flavors=await self._flavors(
                "/model-versions/get-artifact", {"name": asked.name, "version": number, "path": "MLmodel"}
            ),
        )
        return await self._with_run(found)

    async def newest(self, name: str) -> str:
        """Return the number of a model's newest version, "" where it has none."""
        quote = '"' if "'" in name else "'"
        words = {"filter": f"name={quote}{name}{quote}", "max_results": "1"}
        answer = await self.ask("model-versions/search", order_by="version_number DESC", **words)
        versions = [int(version["version"]) for version in (answer or {}).get("model_versions", ())]
        return str(max(versions)) if versions else ""

    async def _version(self, asked: Model) -> dict[str, Any]:
        """Return the registry's record of the version that is meant."""
        name, wanted = asked.name, asked.version
        if asked.alias:
            answer = await self.ask("registered-models/alias", name=name, alias=asked.alias)
        elif wanted.isdecimal():
            answer = await self.ask("model-versions/get", name=name, version=wanted)
        elif wanted and wanted != "latest":
            return await self._of_stage(name, wanted)
        else:
            newest = await self.newest(name)
            answer = await self.ask("model-versions/get", name=name, version=newest) if newest else None
        if answer:
            found: dict[str, Any] = answer["model_version"]
            return found
        return await self._nothing(asked)

    async def _of_stage(self, name: str, stage: str) -> dict[str, Any]:
        """Return the record of the newest version in a stage of an older client."""
        record = await self._registered(name)
        versions = [
            v for v in record.get("latest_versions", ()) if v["current_stage"].lower() == stage.lower()
        ]
        if versions:
            found: dict[str, Any] = max(versions, key=lambda v: int(v["version"]))
            return found
        raise Failure(
            Problem(f"no version of {name} is in {stage}", f"name one: MODEL={name}/VERSION", "MODEL")
        )

    async def _registered(self, name: str) -> dict[str, Any]:
        """Return the record of a registered model.

        Raises:
            Failure: there is none.
        """
        answer = await self.ask("registered-models/get", name=name)
        if answer:
            found: dict[str, Any] = answer["registered_model"]
            return found
        listed = await self.ask("registered-models/search", max_results="20") or {}
        names = [model["name"] for model in listed.get("registered_models", ())]
        fix = f"the registry has {', '.join(names)}" if names else "the registry has none: register one"
        raise Failure(Problem(f"there is no model {name!r}", fix, "MODEL"))

    async def _nothing(self, asked: Model) -> dict[str, Any]:
        """Say what is there instead of the version or alias."""
        record = await self._registered(asked.name)
        newest = await self.newest(asked.name)
        aliases = [entry["alias"] for entry in record.get("aliases", ())]
        what = f"{asked.name} has no " + (f"alias {asked.alias!r}" if asked.alias else "such version")
        has = [f"its newest version is {newest}" if newest else "it has no version at all"]
        has += [f"its aliases are {', '.join(aliases)}"] if aliases else []
        raise Failure(Problem(what, "; ".join(has), "MODEL"))

    async def _logged(self, asked: Model) -> Model:
        answer = await self.ask(f"logged-models/{asked.name}")
        if answer is None:
            raise Failure(Problem(f"there is no logged model {asked.name}", "look at its id", "MODEL"))
        info = answer["model"]["info"]
        files = f"/ajax-api/2.0/mlflow/logged-models/{asked.name}/artifacts/files"
        found = replace(
            asked,
            uri=f"models:/{asked.name}",
            run=info.get("source_run_id", ""),
            created=int(info.get("creation_timestamp_ms", 0)) / 1000,
            flavors=await self._flavors(files, {"artifact_file_path": "MLmodel"}),
        )
        return await self._with_run(found)

    async def _with_run(self, model: Model) -> Model:
        """Return the model with the metrics of its run, where that is still there."""
        answer = await self.ask("runs/get", run_id=model.run) if model.run else None
        if answer is None:
            if model.uri.startswith("runs:"):
                raise Failure(Problem(f"there is no run {model.run}", "look at its id", "MODEL"))
            return model
        metrics = answer["run"]["data"].get("metrics", ())
        return replace(model, metrics={m["key"]: float(m["value"]) for m in metrics})

    async def _flavors(self, path: str, params: dict[str, str]) -> tuple[str, ...]:
        """Return the names of a model's flavours, none where its files cannot be read through the server."""
        with contextlib.suppress(Failure, yaml.YAMLError, AttributeError):
            status, text = await self._get(path, params)
            names = list(yaml.safe_load(text)["flavors"]) if status == 200 else []
            return tuple(name for name in names if name != "python_function") or tuple(names)
        return ()
