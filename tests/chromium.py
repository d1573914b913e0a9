"""The system's chromium, driven as a person would: keys are pressed, and what is shown is read."""

import asyncio
import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --window-size=1200,800"
_CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}


class Tab:
    """One page.

    Attributes:
        complaints: errors and warnings that came up in it.
        asked: the addresses that it asked for.
    """

    def __init__(self, runner: asyncio.Runner, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._runner, self._socket = runner, socket
        self._count = 0
        self.complaints: list[str] = []
        self.asked: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Do what the DevTools protocol calls so."""
        return self._runner.run(self._call(method, params))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        while True:
            said = await asyncio.wait_for(self._socket.receive_json(), 30)
            self._note(said)
            if said.get("id") == self._count:
                assert "error" not in said, said
                found: dict[str, Any] = said["result"]
                return found

    def _note(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        match said.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true, for 20 seconds at most."""
        program = (
            "new Promise((done, fail) => { const end = Date.now() + 20000; const look = () => "
            f"({condition}) ? done() : Date.now() > end ? fail(new Error('not so')) : setTimeout(look, 5); look(); }})"
        )
        self.evaluate(program)

    def press(self, *keys: str) -> None:
        """Press keys one after another: letters, or names such as Enter."""
        for key in keys:
            named: dict[str, Any] = {"key": key}
            if key in _CODES:
                named |= {"windowsVirtualKeyCode": _CODES[key]} | ({"text": "\r"} if key == "Enter" else {})
            else:
                named |= {"text": key}
            self.call("Input.dispatchKeyEvent", type="keyDown", **named)
            named.pop("text", None)
            self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def picture(self, path: Path) -> None:
        """Write what is shown as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def opened(address: str, folder: Path) -> Iterator[Tab]:
    """A chromium that shows a page; what it keeps goes to `folder`."""
    options = [*_OPTIONS.split(), f"--user-data-dir={folder / 'chromium'}", "--remote-debugging-port=0"]
    process = subprocess.Popen([str(CHROMIUM), *options, "about:blank"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = (re.search(r"DevTools listening on ws://([^/]+)", line) for line in process.stderr)
        place = next(filter(None, found))[1]
        with asyncio.Runner() as runner:
            session = runner.run(_session())
            try:
                pages = runner.run(_json_of(session, f"http://{place}/json"))
                url = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
                tab = Tab(runner, runner.run(_connected(session, url)))
                tab.call("Page.navigate", url=address)
                yield tab
            finally:
                runner.run(session.close())
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


async def _json_of(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await response.json(content_type=None)


async def _connected(session: aiohttp.ClientSession, url: str) -> aiohttp.ClientWebSocketResponse:
    return await session.ws_connect(url, max_msg_size=0)
