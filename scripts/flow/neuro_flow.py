"""Shelling out to neuro-flow: commands, and the run of a job, held until it has been checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import sh

from common.console import Failure, Problem, one_line
from common.locks import alone
from common.waits import ended
from flow import fetching
from flow.login import VENV_BIN, Login, child_environment
from flow.submission import Submission, parse_dry_run
from settings import action
from settings.layers import TOOLKIT_DIR, Settings, redact

Found = TypeVar("Found")


async def neuro_flow(settings: Settings, login: Login, *words: str, **variables: str) -> str:
    """Run a neuro-flow command and return what it printed; cancelling ends the command too.

    Raises:
        Failure: it ended with another exit code than 0; its last words are in the message.
    """
    name = settings.flow_cli or str(VENV_BIN.absolute() / "neuro-flow")
    environment = {**child_environment(login, settings), **variables}
    try:
        command = sh.Command(name).bake(_env=environment, _tty_out=False, _err_to_out=True, _async=True)
    except sh.CommandNotFound:
        setting = settings.toolkit["flow_cli"]
        raise Failure(
            Problem(f"there is no command {name}", "install it or correct flow_cli", setting.source)
        ) from None
    running = command(*words)
    try:
        return str(await running)
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            running.terminate()
        raise
    except sh.ErrorReturnCode as error:
        said = [line.strip() for line in error.stdout.decode(errors="replace").splitlines() if line.strip()]
        last = redact(_reason(said))
        if found := await asyncio.to_thread(fetching.explained, settings.flow_dir, " ".join(said)):
            raise Failure(*found) from None
        if "max_run_time_minutes" in last:  # what the platform calls it
            setting = settings.all["deploy_life_span" if settings.deploy_job in words else "life_span"]
            what = f"{setting.name} is {setting.shown!r}, which the platform refuses: {last}"
            raise Failure(Problem(what, "choose another one", setting.source)) from None
        raise Failure(
            Problem(
                f"neuro-flow {words[0]} ended with exit code {error.exit_code}: {last}",
                "correct the setting and run the same again",
            )
        ) from None


def _reason(said: list[str]) -> str:
    """Return what neuro-flow's output says of the failure: from the line that names it on, without frames."""
    lines = [line.strip("│╭╮╰╯─ ") for line in said]
    first = next(
        (i for i, line in enumerate(lines) if re.match(r"(?i)error|invalid|status: failed", line)), -1
    )
    return one_line(" ".join(filter(None, lines[first:])))[:500]


@contextlib.asynccontextmanager
async def rendered(
    settings: Settings, *, keep: bool, model: dict[str, str] | None = None
) -> AsyncIterator[None]:
    """Have the rendered actions as these settings want them while the block runs, and afterwards with `keep`.

    Another target in the workspace, whose settings may be others, waits until then. Without `keep` what was
    there before is there again: a neuro-flow that somebody runs themselves reads it. `model` has further
    inputs of deploy.yaml, for this block only: what is started without make is to take those of the flow.
    """
    async with alone(action.RENDERED.with_name("action.lock")):
        texts = settings.texts(model)
        before = {path: path.read_bytes() if path.exists() else None for path in texts}
        action.write_all(texts)
        try:
            yield
        finally:
            if keep and model:
                action.write_all(settings.texts())
            for path, data in () if keep else before.items():
                if data is None:
                    path.unlink(missing_ok=True)
                else:
                    action.replace_rendered(data, path)


def amended(by: str) -> dict[str, str]:
    """Return the environment in which neuro-flow is amended by the `sitecustomize.py` of a folder here."""
    folder = str((TOOLKIT_DIR / "flow" / by).absolute())
    return {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}  # no litter in somebody's repository


async def evaluate(settings: Settings, login: Login, *words: str) -> Submission:
    """Return the job that neuro-flow would submit of what is `rendered`: the server, or what the words name.

    Raises:
        Failure: the flow or the action cannot be evaluated.
    """
    words = words or (settings.job,)
    output = await neuro_flow(settings, login, "run", "--dry-run", *words, **amended("dry_run"))
    line = output[output.index("apolo run ") :] if "apolo run " in output else output
    return parse_dry_run(line)


class HeldRun:
    """`neuro-flow run` of a job, which submits nothing before `submit`.

    It begins at once, and imports side by side with what else there is to do; then it waits for the words of
    `evaluate`, and where it would call `apolo run`: `flow/held` is in its process. A `flow_cli` of the
    user's may be another program, so that it is asked for a dry run instead, and begins with `submit`.
    """

    def __init__(self, settings: Settings, login: Login, job: str) -> None:
        self._settings, self._login, self._words = settings, login, [job]
        self._folder = Path(tempfile.mkdtemp(prefix="run-", dir=".mlflow")).absolute()
        self._action = contextlib.AsyncExitStack()
        self._running: asyncio.Task[str] | None = None

    async def begin(self) -> None:
        """Start neuro-flow."""
        if not self._settings.flow_cli:
            self._start(
                MLFLOW_HELD=str(self._folder),
                MLFLOW_HELD_BY=str(os.getpid()),
                MLFLOW_HELD_JOB=self._words[0],
                **amended("held"),
            )
            await asyncio.sleep(0)  # lets the task start the process

    def _start(self, **variables: str) -> None:
        running = neuro_flow(self._settings, self._login, "run", *self._words, **variables)
        self._running = asyncio.create_task(running)

    async def evaluate(self, *words: str, model: dict[str, str] | None = None) -> None:
        """Render the actions, as soon as no other target here is about to, and have the job evaluated.

        `words` are further ones for neuro-flow; `model` is as for `rendered`.
        """
        await self._action.enter_async_context(rendered(self._settings, keep=True, model=model))
        self._words += words
        (self._folder / "part").write_text(json.dumps(words), encoding="utf-8")
        (self._folder / "part").rename(self._folder / "words")

    async def job(self) -> Submission:
        """Return the job that is to be submitted.

        Raises:
            Failure: the flow or the action cannot be evaluated, or the job runs already.
        """
        if self._running is None:
            return await evaluate(self._settings, self._login, *self._words)
        while not (self._folder / "job").exists():
            if self._ended:
                said = await self._running
                what = f"neuro-flow run has submitted nothing: {redact(one_line(said))[-300:]}"
                raise Failure(Problem(what, "run the same again"))
            await self._wait(0.01)
        words = json.loads((self._folder / "job").read_text(encoding="utf-8"))
        return parse_dry_run(shlex.join(["apolo", *words]))

    async def submit(self, find: Callable[[], Awaitable[Found]]) -> Found:
        """Let it submit the job, and other targets render the actions when it has; return what `find` finds.

        That is asked until it finds something, or neuro-flow has ended.
        """
        (self._folder / "go").touch()
        if self._running is None:
            self._start()
        while not (found := await find()) and not self._ended:
            await self._wait(0.05)
        await self._action.aclose()
        return found

    @property
    def _ended(self) -> bool:
        """Whether neuro-flow has ended."""
        return self._running is not None and self._running.done()

    async def _wait(self, seconds: float) -> None:
        """Wait for neuro-flow's end, but no longer than that."""
        if self._running:
            await asyncio.wait({self._running}, timeout=seconds)

    async def end(self) -> None:
        """Wait until neuro-flow ends by itself.

        Raises:
            Failure: its exit code was not 0.
        """
        if self._running:
            await self._running

    async def close(self) -> None:
        """End it; what it has submitted stays."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._running:
            await ended(self._running)
        await self._action.aclose()
