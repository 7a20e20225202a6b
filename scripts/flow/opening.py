"""Opening the workspace's flow: the connection to the platform, and what goes wrong with it, in one line."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from common.console import UNREACHABLE, Failure, Problem, one_line
from common.lazy import lazily
from common.waits import within
from flow.login import VENV_BIN, Login, log_in
from flow.neuro_flow import HeldRun
from flow.workspace import Flow
from settings.layers import Settings, redact

if TYPE_CHECKING:
    import aiohttp
    import apolo_sdk
else:
    aiohttp, apolo_sdk = lazily("aiohttp"), lazily("apolo_sdk")

CONNECT_TIMEOUT = 12
"""Seconds for the first answer of the platform: `make` has to say so within 15 that there is none."""


@contextlib.contextmanager
def platform_errors(settings: Settings) -> Iterator[None]:
    """Turn what the SDK raises into one line: exit code 2 where there is no login or no platform, else 1."""
    local = f"make mlflow-{settings.target or 'up'} MLFLOW_PLATFORM=local"
    again = f"`{VENV_BIN}/neuro login` logs in; `{local}` needs no login"
    try:
        yield
    except apolo_sdk.ConfigError as error:
        absent = re.search("does not exist|not a regular file", str(error))
        reason = "not logged in to the platform" if absent else f"no login: {error}"
        raise Failure(Problem(reason, again), code=UNREACHABLE) from None
    except apolo_sdk.AuthError as error:
        reason = f"the platform refuses the login: {one_line(str(error))}"
        raise Failure(Problem(reason, again), code=UNREACHABLE) from None
    except (
        aiohttp.ClientError,
        asyncio.TimeoutError,
        ConnectionError,
        apolo_sdk.BadGateway,
        apolo_sdk.ServerNotAvailable,
    ) as error:
        reason = one_line(str(error)) or f"no answer in {CONNECT_TIMEOUT} s"
        fix = "check the network; run the same command again"
        raise Failure(
            Problem(f"the platform cannot be reached: {reason}", fix, settings.platform), code=UNREACHABLE
        ) from None
    except (
        apolo_sdk.IllegalArgumentError,
        apolo_sdk.ResourceNotFound,
        apolo_sdk.ClientError,
        apolo_sdk.NDJSONError,
    ) as error:
        reason = redact(one_line(str(error))[:1000]) or type(error).__name__
        fix = "correct what it names; where it names nothing of yours, run the same command again"
        raise Failure(Problem(f"the platform refuses that: {reason}", fix, settings.platform)) from None


async def connected(login: Login) -> apolo_sdk.Client:
    """Return a client of the platform, which has to be closed."""
    getting = asyncio.ensure_future(apolo_sdk.get(path=login.config))
    try:
        return await within(CONNECT_TIMEOUT, getting)
    except asyncio.CancelledError:
        if not getting.cancelled() and not getting.exception():
            await getting.result().close()
        raise


@contextlib.asynccontextmanager
async def open_flow(
    settings: Settings, *, will_run: bool = False, will_start: str = ""
) -> AsyncIterator[Flow]:
    """Yield the flow, connected; ends the embedded platform again when no job is left on it.

    The run of the job `will_start` begins meanwhile, as `Flow.held`; the server's is evaluated, too.

    Raises:
        Failure: there is no login, or the platform does not answer.
    """
    login = log_in(settings, will_run=will_run)
    idle = False
    held = None
    try:
        if will_start:
            held = HeldRun(settings, login, will_start)
            await held.begin()
            if will_start == settings.job:
                await held.evaluate()
        with platform_errors(settings):
            client = await connected(login)
            try:
                flow = Flow(settings, login, client)
                if not flow.project:
                    fix = f"`{login.apolo_typed} config switch-project NAME`, or project_name in project.yml"
                    raise Failure(Problem("no project of the platform is chosen", fix))
                flow.held = held
                flow.job = await within(CONNECT_TIMEOUT, flow.find())
                try:
                    yield flow
                finally:
                    idle = login.is_last_user() and not await flow.has_active_jobs()
            finally:
                await client.close()
    finally:
        if held:
            await held.close()
        login.release(idle)
