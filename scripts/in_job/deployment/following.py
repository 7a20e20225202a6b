"""Whether the registry's server answers, and where an alias is: asked without MLflow, which takes 150 MB.

Nor is macOS asked for its proxies, which no process may do that forks later.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener, getproxies_environment

from in_job.words import Problem

WAIT = 5.0  # seconds for an answer


def alias_of(uri: str, env: Mapping[str, str]) -> tuple[str, str]:
    """Return name and alias of a model's URI; Problem where it has none, or no server can be asked."""
    found = re.match(r"models:/(.+)@([^@]+)$", uri)
    if not found:
        raise Problem(
            f"MLFLOW_DEPLOY_FOLLOW is on, and {uri} has no alias to follow: give one, as iris@champion"
        )
    if not env.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        raise Problem("MLFLOW_DEPLOY_FOLLOW is on: set MLFLOW_TRACKING_URI to a server's http:// address")
    return found.group(1), found.group(2)


def get(env: Mapping[str, str], path: str) -> Any:
    """Return the tracking server's answer, still open, asked as its client would ask; OSError without one."""
    request = Request(env["MLFLOW_TRACKING_URI"].rstrip("/") + path)  # noqa: S310 - http only
    user, token = env.get("MLFLOW_TRACKING_USERNAME"), env.get("MLFLOW_TRACKING_TOKEN")
    if user:
        pair = f"{user}:{env.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    elif token:
        request.add_header("Authorization", f"Bearer {token}")
    context = ssl.create_default_context(cafile=env.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
    if env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    handlers = ProxyHandler(getproxies_environment()), HTTPSHandler(context=context)
    return build_opener(*handlers).open(request, timeout=WAIT)


def require_answer(env: Mapping[str, str]) -> None:
    """See to it that the tracking server answers at all, where it is one; MLflow would try for half a minute.

    Raises:
        Problem: it does not within WAIT seconds.
    """
    server, deadline = env.get("MLFLOW_TRACKING_URI", ""), time.monotonic() + WAIT
    while server.startswith("http"):
        try:
            get(env, "/health").close()
            return
        except HTTPError:  # whoever refuses is there
            return
        except (OSError, ValueError, HTTPException) as error:
            if time.monotonic() > deadline - 1:
                reason = getattr(error, "reason", "") or error
                raise Problem(
                    f"{server}, where the model is registered, does not answer: {reason}; look whether "
                    "it runs, and whether tracking_uri is its address in the cluster"
                ) from error
        time.sleep(1)


def version_at(env: Mapping[str, str], name: str, alias: str) -> str:
    """Return the version that an alias is at.

    Raises:
        Problem: there is no such alias, or nobody answers.
    """
    server = env["MLFLOW_TRACKING_URI"].rstrip("/")
    query = urlencode({"name": name, "alias": alias})
    try:
        with get(env, f"/api/2.0/mlflow/registered-models/alias?{query}") as answer:
            return str(json.load(answer)["model_version"]["version"])
    except HTTPError as error:
        said = error.read(2000).decode(errors="replace")
        message = re.search(r'"message": *"((?:[^"\\]|\\.)*)"', said)
        raise Problem(
            f"{server} says of the alias {alias} of {name}: {message.group(1) if message else error}"
        ) from error
    except (OSError, ValueError, KeyError, HTTPException) as error:
        raise Problem(f"{server} does not say where the alias {alias} of {name} is: {error}") from error
