"""The server: for this machine alone, for holders of the token alone, and with nothing left behind.

The page runs code that its user types (puzzles), so nobody else may speak to it: not another user of the machine, who lacks the
token, and not another page in the same browser, whose requests name another host or origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
from importlib import resources
from pathlib import Path

from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler

from npgan.console import say
from npgan.errors import InputError, first_line
from npgan.play.base import Message, Part
from npgan.play.parts import PARTS

ADDRESS = "127.0.0.1"
_LARGEST_MESSAGE = 1 << 20
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class Server:
    """``address`` is where the page is, once ``start`` has returned."""

    def __init__(self, run: Path | None) -> None:
        self.run = run
        self.token, self._once = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.pages: set[web.WebSocketResponse] = set()
        self.host = ""
        self.files = {
            file.name: file.read_text(encoding="utf-8")
            for file in resources.files("npgan.play").joinpath("static").iterdir()
        }
        app = web.Application(middlewares=[self._guarded])
        app.router.add_get("/{token}/ws", self._page)
        app.router.add_get("/{token}/{name:[^/]*}", self._file)
        app.on_shutdown.append(self._close_pages)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)

    @property
    def address(self) -> str:
        return f"http://{self.host}/{self.token}/{'#digits' if self.run else ''}"

    @property
    def address_once(self) -> str:
        """For a browser's command line, which every user of the machine can read: it works once, and leads to ``address``."""
        return f"http://{self.host}/{self._once}/"

    async def start(self, port: int) -> None:
        """``port`` 0: a free one. Raises InputError for one that cannot be had."""
        await self.runner.setup()
        try:
            await web.TCPSite(self.runner, ADDRESS, port).start()
        except OSError as error:
            await self.stop()
            raise InputError(f"--port {port}: {first_line(error)}") from None
        self.host = f"{ADDRESS}:{self.runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self.runner.cleanup()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        token = request.path.split("/")[1].encode()
        is_once = hmac.compare_digest(token, self._once.encode())
        is_ours = hmac.compare_digest(token, self.token.encode())
        problem = self._problem(request) if is_once or is_ours else "open the address that npgan play has printed"
        if problem:
            raise web.HTTPForbidden(text=f"403: {problem}\n", headers=self._headers())
        if is_once:
            self._once = secrets.token_urlsafe(32)
            raise web.HTTPFound(self.address, headers=self._headers())
        return await handler(request)

    def _problem(self, request: web.Request) -> str:
        """Why a request that has the token is refused, or ""."""
        if request.headers.getall("Host", []) != [self.host]:
            return "this is another host's name"
        origins = request.headers.getall("Origin", [])
        is_socket = request.path.endswith("/ws")
        if origins != [f"http://{self.host}"] and (origins or is_socket):
            return "this request is another page's"
        site, mode = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Sec-Fetch-Mode")
        if site not in ("none", "same-origin") and mode != "navigate":
            return "this request is another page's"
        return ""

    def _headers(self) -> dict[str, str]:
        """Scripts, styles and connections of this server alone; and text never becomes HTML: no script may set it."""
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
            f"connect-src 'self' ws://{self.host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
        return {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",  # the address holds the token
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"] or "index.html"
        if name not in self.files:
            raise web.HTTPNotFound(headers=self._headers())
        return web.Response(text=self.files[name], content_type=_TYPES[Path(name).suffix], headers=self._headers())

    async def _page(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=20.0, max_msg_size=_LARGEST_MESSAGE, compress=False)
        await socket.prepare(request)
        self.pages.add(socket)
        try:
            await _Page(socket, self.run).talk()
        finally:
            self.pages.discard(socket)
        return socket

    async def _close_pages(self, app: web.Application) -> None:
        await asyncio.gather(
            *(socket.close(code=1001, message=b"npgan play has stopped") for socket in list(self.pages))
        )


class _Page:
    """One page: its parts, each with the messages that wait for it."""

    def __init__(self, socket: web.WebSocketResponse, run: Path | None) -> None:
        self.socket, self.run = socket, run
        self.queues: dict[str, asyncio.Queue[Message]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def talk(self) -> None:
        """Returns when the page is closed and its parts have ended."""
        try:
            await self.send("page", {"parts": list(PARTS)})
            async for text in self.socket:
                if text.type == WSMsgType.TEXT:
                    self._deliver(text.data)
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def send(self, name: str, message: Message) -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.send_str(json.dumps({"part": name, **message}, allow_nan=False))

    def _deliver(self, text: str) -> None:
        """What is no message of a part was not sent by our page: it is dropped."""
        try:
            message = json.loads(text)
            name = message.pop("part")
        except (ValueError, AttributeError, KeyError, TypeError):
            return
        if not isinstance(name, str) or name not in PARTS:
            return
        if name not in self.queues:
            self.queues[name] = asyncio.Queue()
            self.tasks.append(asyncio.create_task(self._serve(name)))
        self.queues[name].put_nowait(message)

    async def _serve(self, name: str) -> None:
        async def send(message: Message) -> None:
            await self.send(name, message)

        part: Part = PARTS[name](send, self.run)
        try:
            while True:
                message = await self.queues[name].get()
                try:
                    await part.handle(message)
                except InputError as error:
                    await send({"error": str(error)})
                except Exception as error:  # a mistake of ours: the page says so and goes on
                    say(f"npgan play: {name}: {type(error).__name__}: {first_line(error)}", to_stderr=True)
                    await send({"error": f"{type(error).__name__}: {first_line(error)}"})
        finally:
            await part.close()
