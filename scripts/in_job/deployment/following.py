"""Where an alias of the registry is, asked now and then without MLflow, which would take 150 MB for it."""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections.abc import Mapping
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from in_job.words import Problem

WAIT = 5  # seconds for an answer


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


def version_at(env: Mapping[str, str], name: str, alias: str) -> str:
    """Return the version that an alias is at, as MLflow's variables say how to ask.

    Raises:
        Problem: there is no such alias, or nobody answers.
    """
    server = env["MLFLOW_TRACKING_URI"].rstrip("/")
    query = urlencode({"name": name, "alias": alias})
    request = Request(f"{server}/api/2.0/mlflow/registered-models/alias?{query}")  # noqa: S310 - http only
    user, token = env.get("MLFLOW_TRACKING_USERNAME"), env.get("MLFLOW_TRACKING_TOKEN")
    if user:
        pair = f"{user}:{env.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    elif token:
        request.add_header("Authorization", f"Bearer {token}")
    context = ssl.create_default_context(cafile=env.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
    if env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urlopen(request, timeout=WAIT, context=context) as answer:  # noqa: S310
            return str(json.load(answer)["model_version"]["version"])
    except HTTPError as error:
        said = error.read(2000).decode(errors="replace")
        message = re.search(r'"message": *"((?:[^"\\]|\\.)*)"', said)
        raise Problem(
            f"{server} says of the alias {alias} of {name}: {message.group(1) if message else error}"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise Problem(f"{server} does not say where the alias {alias} of {name} is: {error}") from error
