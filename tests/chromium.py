"""A headless Chromium, driven through the DevTools protocol over a pipe."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One page of a Chromium."""

    def __init__(self, stdin, stdout):
        self._stdin, self._stdout = stdin, stdout
        self._number = 0
        self._session = None
        self.events = []  # all that the page has said of itself, such as exceptions
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self.call("DOM.enable")

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._stdin.write(json.dumps(message).encode() + b"\0")
        self._stdin.flush()
        while True:  # events come between
            answer = self._read()
            if "method" in answer:
                self.events.append(answer)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self):
        message = bytearray()
        while (byte := self._stdout.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            message += byte
        return json.loads(message)

    def open(self, url):
        assert "errorText" not in self.call("Page.navigate", url=url)

    def text(self, selector):
        script = f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"
        return self.call("Runtime.evaluate", expression=script)["result"]["value"]

    def wait_for(self, selector, part, seconds=120):
        end = time.monotonic() + seconds
        while part not in self.text(selector):
            assert time.monotonic() < end, self.text("body")
            time.sleep(0.1)

    def evaluate(self, expression):
        """Its value; that of a promise once there is one."""
        how = {"returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            if text and kind == "keyDown":
                pressed["text"] = text
            self.call("Input.dispatchKeyEvent", type=kind, **pressed)

    def point_at(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            place = {"x": x, "y": y, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **place)

    def tap(self, x, y):
        """As a finger does."""
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    def emulate(self, **features):
        """Media features: `prefers_color_scheme="dark"`."""
        named = [{"name": name.replace("_", "-"), "value": v} for name, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)

    def choose_file(self, selector, path):
        assert path.is_absolute()  # a page that is handed another never answers again
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path, width=390, height=844, dark=False):
        """Of a phone's size, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2,
            mobile=True,
        )
        self.emulate(prefers_color_scheme="dark" if dark else "light")
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def chromium(profile):
    """Starts one with a profile folder of its own, and ends it."""
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    # It reads from descriptor 3 and writes to 4. From 10 on, neither can be one of the two.
    high_in, high_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (their_in, their_out))
    os.close(their_in)
    os.close(their_out)
    command = f'exec "$@" 3<&{high_in} 4>&{high_out} {high_in}<&- {high_out}>&-'
    options = [
        "--headless=new",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        "--no-first-run",
        "--disable-dev-shm-usage",
    ]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    with subprocess.Popen(
        ["bash", "-c", command, "bash", PROGRAM, *options],
        pass_fds=(high_in, high_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(high_in)
        os.close(high_out)
        with os.fdopen(our_out, "wb") as stdin, os.fdopen(our_in, "rb") as stdout:
            try:
                yield Page(stdin, stdout)
            finally:
                process.terminate()
                process.wait()
