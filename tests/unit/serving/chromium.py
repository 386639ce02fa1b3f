"""A real browser for the pages: `make test-page` installs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.ports import free_port

LONGEST_SECONDS = 120.0
"""For what will happen; it only ends a hang."""
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """Chromium, by its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def call(self, method: str, **parameters: object) -> dict[str, object]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, object] = message["result"]
                return result

    async def value(self, script: str) -> object:
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")  # type: ignore[attr-defined]

    async def until(self, script: str) -> None:
        tolerant = f"(() => {{ try {{ return {script}; }} catch {{ return false; }} }})()"  # the page may be loading
        async with asyncio.timeout(LONGEST_SECONDS):
            while not await self.value(tolerant):
                await asyncio.sleep(0.05)

    async def give(self, selector: str, file: Path) -> None:
        """Chooses a file in a field."""
        document = await self.call("DOM.getDocument")
        root = document["root"]["nodeId"]  # type: ignore[index]
        field = await self.call("DOM.querySelector", nodeId=root, selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=field["nodeId"], files=[str(file)])

    async def press(self, key: str) -> None:
        codes = {"Tab": 9, " ": 32, "ArrowRight": 39}
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if key == " " and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes[key], **text)


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    port = free_port()
    options = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/profile",
    )
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *options, f"--remote-debugging-port={port}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(await _page(session, port), max_msg_size=0) as websocket:
                yield Browser(websocket)
        finally:
            process.kill()
            await process.wait()


async def _page(session: aiohttp.ClientSession, port: int) -> str:
    """Where the first page is spoken to, once it is there."""
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    for each in json.loads(await answer.text()):
                        if each["type"] == "page":
                            return str(each["webSocketDebuggerUrl"])
            await asyncio.sleep(0.1)
