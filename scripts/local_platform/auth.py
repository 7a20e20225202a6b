"""Who may call: JSON web tokens signed with a key of this state folder."""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import time
from typing import Any

from aiohttp import web
from jose import JOSEError, jwt

from .names import USER, ApiError
from .state import State, write_atomic

#: The stored login counts a token as valid for three years; after that the platform makes new ones.
TOKEN_SECONDS = 3 * 365 * 24 * 3600
COOKIE_SECONDS = 12 * 3600


NOTHING_GIVEN = "there is no token: a header `Authorization: Bearer TOKEN` with this platform's is needed"


class Auth:
    """Issues and verifies the tokens of one state folder."""

    def __init__(self, state: State) -> None:
        real = os.path.realpath(state.root)
        stored = state.load("key.json", {})
        # A copied folder gets a key of its own, or its token would open the original's platform.
        if stored.get("state") != real or len(stored.get("key", "")) != 64:
            stored = {"state": real, "key": secrets.token_hex(32)}
            state.save("key.json", stored)
            state.token.unlink(missing_ok=True)
        self._key: str = stored["key"]
        try:
            self.token = state.token.read_text().strip()
            self.verify(self.token, "api")
        except (OSError, ValueError, ApiError):
            self.token = self.issue("api", TOKEN_SECONDS)
            write_atomic(state.token, self.token.encode())

    def issue(self, use: str, seconds: float) -> str:
        """Sign a token for one `use` ("api", or the ingress of one job), valid for `seconds`."""
        now = int(time.time())
        claims = {
            "identity": USER,
            "use": use,
            "iat": now,
            "exp": now + int(seconds),
            "jti": secrets.token_hex(8),
        }
        return str(jwt.encode(claims, self._key, algorithm="HS256"))

    def verify(self, token: str, use: str) -> dict[str, Any]:
        """Return a token's claims; ApiError 401 unless it was signed here, for this use, and still holds."""
        try:
            claims: dict[str, Any] = jwt.decode(token, self._key, algorithms=["HS256"])
        except (JOSEError, ValueError) as error:  # ValueError: bytes that are no text
            raise ApiError(401, "the token is not one of this platform") from error
        if claims.get("identity") != USER or claims.get("use") != use or "exp" not in claims:
            raise ApiError(401, "the token is not meant for this")
        return claims

    def bearer(self, request: web.BaseRequest) -> None:
        """Let a request pass that carries this platform's token; ApiError 401 otherwise."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() == "basic" and request.path.startswith("/v2/"):  # as registries are asked
            with contextlib.suppress(ValueError):
                token = base64.b64decode(token).decode().partition(":")[2]
        elif scheme.lower() != "bearer":
            token = ""
        if not token:
            raise ApiError(401, NOTHING_GIVEN)
        self.verify(token, "api")

    def fingerprint(self, *texts: str) -> str:
        """Tell whether texts changed without keeping them: a keyed hash."""
        return hmac.new(self._key.encode(), "\0".join(texts).encode(), hashlib.sha256).hexdigest()
