"""A page on this machine on which people look at records beside their documents, and keep or reject them.

Only this machine is served. A page from elsewhere, which a browser here might show as well, can neither read nor write
anything: it knows no token, its requests name another origin, and a name of its own that leads here is no host of ours.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec
from aiohttp import web

from smt_plugin.errors import BadInput, fault_of
from smt_plugin.faithfulness.check import KINDS
from smt_plugin.faithfulness.reviewed import ReviewedRecords

HOST = "127.0.0.1"
_HOSTS = (HOST, "localhost")
_LONGEST = 10_000  # bytes of what is sent to us
_FILES = {"": "text/html", "review.js": "text/javascript", "review.css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Decision(msgspec.Struct, forbid_unknown_fields=True):
    """What the page sends when somebody decides."""

    number: int
    id: str
    verdict: Literal["reject", "keep", "open"]
    reason: str = ""


class Review:
    """The page's server; what it answers is JSON, and all text in it is data.

    Attributes:
        token: without it in the address nothing is answered.
    """

    def __init__(self, records: ReviewedRecords) -> None:
        self._records = records
        self.token = secrets.token_urlsafe(24)

    async def serve(self, port: int, on_ready: Callable[[str], None]) -> None:
        """Serve until cancelled.

        Args:
            port: 0 for any that is free.
            on_ready: given the page's address once it is served.

        Raises:
            BadInput: the port cannot be had.
        """
        server = web.AppRunner(self._app(), access_log=None, shutdown_timeout=1)
        await server.setup()
        try:
            await web.TCPSite(server, HOST, port).start()
            on_ready(f"http://{HOST}:{server.addresses[0][1]}/{self.token}/")
            await asyncio.Event().wait()
        except OSError as error:
            raise BadInput(f"port {port} cannot be had ({fault_of(error)[0]}); give another --port.") from None
        finally:
            await server.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=_LONGEST)
        for name in _FILES:
            app.router.add_get(f"/{self.token}/{name}", self._file)
        app.router.add_get(f"/{self.token}/records", self._chosen)
        app.router.add_get(f"/{self.token}/record", self._record)
        app.router.add_post(f"/{self.token}/verdict", self._decide)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            response = await handler(request) if self._is_ours(request) else _refused("not from this page", 403)
        except web.HTTPException as error:
            response = _refused(error.reason, error.status)
        except (ValueError, IndexError):  # msgspec's errors are ValueErrors
            response = _refused("there is no such record, or it cannot be asked for so", 400)
        except (BadInput, OSError) as error:
            said = str(error) if isinstance(error, BadInput) else f"not written: {fault_of(error)[0]}"
            response = _refused(said, 500)
        response.headers.update(_HEADERS)
        return response

    def _is_ours(self, request: web.Request) -> bool:
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin", f"http://{host}")
        is_get = request.method == "GET"
        # The address itself may be followed from anywhere, a terminal in a browser for one.
        is_visit = is_get and request.headers.get("Sec-Fetch-Mode") == "navigate"
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        token = request.path.removeprefix("/").partition("/")[0]
        return (
            host.partition(":")[0] in _HOSTS
            and origin == f"http://{host}"
            and (site == "same-origin" or is_visit)
            and secrets.compare_digest(token.encode(), self.token.encode())
            # No form of another page can send this kind.
            and (is_get or request.content_type == "application/json")
        )

    async def _file(self, request: web.Request) -> web.Response:
        name = request.path.rpartition("/")[2]
        path = Path(__file__).with_name(name or "review.html")
        return web.Response(text=path.read_text(encoding="utf-8"), content_type=_FILES[name])

    async def _chosen(self, request: web.Request) -> web.Response:
        """The numbers of the records that fit; without a choice all, with what may be chosen."""
        names = ("method", "document", "finding", "verdict")
        numbers = self._records.chosen(**{name: request.query.get(name, "") for name in names})
        return _json(
            {
                "numbers": numbers,
                "total": len(self._records),
                "methods": self._records.methods,
                "kinds": KINDS,
                "counts": self._records.counts(),
            }
        )

    async def _record(self, request: web.Request) -> web.Response:
        return _json(self._records.record(int(request.query.get("number", ""))))

    async def _decide(self, request: web.Request) -> web.Response:
        said = msgspec.json.decode(await request.read(), type=_Decision)
        # Not in another thread: a verdict is on disk before the next one is looked at.
        held = self._records.decide(said.number, said.id, said.verdict, said.reason)
        return _json(held | {"counts": self._records.counts()})


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)


def _refused(why: str, status: int) -> web.Response:
    return _json({"error": why}, status)
