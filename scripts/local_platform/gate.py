"""Who gets through to a job with `http_auth`: bearers of the token, and browsers that were given a cookie."""

import secrets
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from aiohttp import web
from multidict import CIMultiDict

from .auth import COOKIE_SECONDS, NOTHING_GIVEN, Auth
from .names import ApiError

LOGIN_PATH = "/.local-platform/login"
CODE_SECONDS = 60.0


@dataclass(frozen=True)
class _Code:
    port: int
    path: str
    expires: float


class Gate:
    """Checks requests to protected jobs, and gives a browser its cookie for a one-time code."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth
        self._codes: dict[str, _Code] = {}

    def link(self, url: str) -> str:
        """Make a link that works once, for a minute: it sets the cookie and leads to `url` of an ingress."""
        parts = urlsplit(url)
        self._codes = {key: code for key, code in self._codes.items() if code.expires > time.monotonic()}
        # The way back is kept here and not in the link, so it can lead nowhere else.
        path = "/" + parts.path.lstrip("/\\") + (f"?{parts.query}" if parts.query else "")
        path += f"#{parts.fragment}" if parts.fragment else ""
        key = secrets.token_urlsafe(24)
        self._codes[key] = _Code(parts.port or 80, path, time.monotonic() + CODE_SECONDS)
        return f"{parts.scheme}://{parts.netloc}{LOGIN_PATH}?code={key}"

    def check(self, request: web.Request, port: int) -> web.Response | None:
        """Return None if the request may pass to the job behind `port`, else what to answer."""
        if request.rel_url.raw_path == LOGIN_PATH:
            return self._login(request, port)
        try:
            cookie = _cookies(request.headers.get("Cookie", "")).get(_name(port))
            if request.headers.get("Authorization", "").lower().startswith("bearer "):
                self._auth.bearer(request)
            elif cookie is None:
                raise ApiError(401, NOTHING_GIVEN)
            else:
                self._auth.verify(cookie, _use(port))
        except ApiError as error:
            return _unauthorized(request, str(error))
        return None

    @staticmethod
    def strip(headers: "CIMultiDict[str]", port: int) -> None:
        """Take what got the request through the gate out of it: the job has no use for it."""
        headers.pop("Authorization", None)
        cookies = _cookies(headers.pop("Cookie", ""))
        cookies.pop(_name(port), None)
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())

    def _login(self, request: web.Request, port: int) -> web.Response:
        key = parse_qs(request.rel_url.raw_query_string).get("code", [""])[0]
        code = self._codes.pop(key, None)
        if code is None or code.port != port or code.expires < time.monotonic():
            return _unauthorized(request, "this link has been used already, or is too old")
        response = web.Response(status=303, headers={"Location": code.path, "Referrer-Policy": "no-referrer"})
        value = self._auth.issue(_use(port), COOKIE_SECONDS)
        # Cookies do not know ports: the name keeps those of two jobs, or two checkouts, apart.
        response.set_cookie(
            _name(port), value, max_age=COOKIE_SECONDS, httponly=True, samesite="Lax", path="/"
        )
        return response


def _use(port: int) -> str:
    return f"ingress:{port}"


def _name(port: int) -> str:
    return f"local_platform_{port}"


def _cookies(header: str) -> dict[str, str]:
    """Split a Cookie header as it is: values keep their quoting, odd ones are not dropped."""
    pairs = (part.partition("=") for part in header.split(";"))
    return {name.strip(): value.strip() for name, sep, value in pairs if sep}


def _unauthorized(request: web.Request, text: str) -> web.Response:
    headers = {"WWW-Authenticate": 'Bearer realm="local platform"', "Cache-Control": "no-store"}
    if "text/html" in request.headers.get("Accept", ""):
        page = (
            "<!doctype html><title>401</title><h1>This server is protected</h1>"
            "<p>To open it in a browser, run <code>make mlflow-open</code>."
        )
        return web.Response(status=401, text=page, content_type="text/html", headers=headers)
    return web.json_response({"error": text}, status=401, headers=headers)
