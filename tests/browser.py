"""A headless Chromium over its debugging pipe: evaluate, screenshot, and everything the page complained
about.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


def find_chromium() -> str | None:
    """The browser's path, or None."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )


class Browser:
    """One page. Use as a context manager; ``problems`` collects script errors, refused loads and network
    requests.
    """

    def __init__(self, width: int = 1300, height: int = 1000) -> None:
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        command_read, self._command = os.pipe()
        self._result, result_write = os.pipe()
        path = find_chromium()
        assert path is not None
        # Chromium reads commands from descriptor 3 and answers on 4.
        line = f'exec "$0" "$@" 3<&{command_read} 4>&{result_write} 2>/dev/null'
        arguments = [
            *FLAGS,
            f"--user-data-dir={self.profile}",
            f"--window-size={width},{height}",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            ["bash", "-c", line, path, *arguments], pass_fds=(command_read, result_write)
        )
        os.close(command_read)
        os.close(result_write)
        self._count, self._rest, self.problems = 0, b"", list[str]()
        target = self._call("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in target if one["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._command)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._result)
        shutil.rmtree(self.profile, ignore_errors=True)

    def open(self, path: Path) -> None:
        """Load a local file and wait until it is loaded."""
        self._call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, promises awaited; AssertionError with the page's message if it
        throws.
        """
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 15.0) -> None:
        """Until a JavaScript condition holds."""
        limit = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < limit, f"not within {seconds} s: {condition}"
            time.sleep(0.05)

    def size(self, width: int, height: int) -> None:
        """Of the window in CSS pixels; below 800 it is a phone's."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 800,
        )

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        path.write_bytes(
            base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        )

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._command, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._result, 1 << 20)
            assert data, "the browser went away"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(parameters["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent" and not parameters["request"][
            "url"
        ].startswith(("file:", "data:")):
            self.problems.append(f"request to {parameters['request']['url']}")
