"""Who may look: an operator, by Api-Key or after logging in on the page; or this machine's user.

A browser sends its cookie along with whatever page it shows, so the cookie is for this site alone
(SameSite=Strict) and no script can read it. Where no Api-Keys are asked for, only this machine can
connect; a page of another name that was led to our address (DNS rebinding) is told by its Host.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from broker.gateway.access import OPERATOR, ApiKeys
from client import errors

Endpoint = Callable[[Request], Awaitable[Response]]

COOKIE = "zmq_policy_gateway"
_MOST_LOGINS = 1000
_WRONG_KEY_S = 0.5
_HERE = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Decides about requests for the page's data, `/status` and `/metrics`."""

    def __init__(self, keys: ApiKeys, *, insecure: bool) -> None:
        self._keys, self._insecure = keys, insecure
        self._logins: OrderedDict[str, None] = OrderedDict()

    def refusal(self, request: Request) -> str:
        """The reason why this request may not look; empty if it may."""
        if not self._keys.are_asked_for:
            host = request.headers.get("Host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            is_here = self._insecure or name in _HERE or name.startswith("127.")
            return "" if is_here else f"this gateway answers this machine only, not {host!r:.60}"
        if request.cookies.get(COOKIE) in self._logins:
            return ""
        try:
            identity = self._keys.identify_header(request.headers.get("Authorization"))
        except errors.Forbidden as error:
            return str(error)
        return "" if identity.role == OPERATOR else f"{identity.name!r} is a robot: an operator may"

    def guarded(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint that answers 401 to those who may not look."""

        async def answer(request: Request) -> Response:
            reason = self.refusal(request)
            if reason:
                headers = {"WWW-Authenticate": "Api-Key"}
                return JSONResponse({"error": reason}, status_code=401, headers=headers)
            return await endpoint(request)

        return answer

    async def log_in(self, request: Request) -> Response:
        """Give whoever sends an operator's Api-Key in its `Authorization` a cookie."""
        try:
            identity = self._keys.identify_header(request.headers.get("Authorization"))
            if identity.role != OPERATOR:
                raise errors.Forbidden(f"the Api-Key of {identity.name!r} is a robot's")
        except errors.Forbidden as error:
            await asyncio.sleep(_WRONG_KEY_S)
            return JSONResponse({"error": str(error)}, status_code=401)
        token = secrets.token_urlsafe(32)
        self._logins[token] = None
        while len(self._logins) > _MOST_LOGINS:
            self._logins.popitem(last=False)
        answer = Response(status_code=204)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
        return answer
