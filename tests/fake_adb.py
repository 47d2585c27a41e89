"""A stand-in for adb and a device, for what no test can have without a device.

It takes the device's commands apart as a shell would, and keeps what is pushed as real files in the
folder of FAKE_ADB. How it answers is said in that folder's device.json.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

TEMPORARY = "/data/local/tmp"


def main():
    folder = Path(os.environ["FAKE_ADB"])
    device = json.loads((folder / "device.json").read_text())

    def here(path):
        assert path.startswith(TEMPORARY), path
        return folder / path.removeprefix(TEMPORARY).lstrip("/")

    arguments = sys.argv[1:]
    with (folder / "calls").open("a") as calls:
        print(json.dumps(arguments), file=calls)
    if arguments == ["devices", "-l"]:
        print("* daemon started successfully\nList of devices attached")
        print(device["listing"])
        return 0
    assert arguments[:2] == ["-s", device["serial"]], arguments
    verb, *rest = arguments[2:]
    if verb == "push":
        if "push_error" in device:
            print(f"adb: error: failed to copy: {device['push_error']}", file=sys.stderr)
            return 1
        shutil.copyfile(rest[0], here(rest[1]))
        return 0
    assert verb == "shell"
    program, *words = shlex.split(" ".join(rest))
    if program == "getprop":
        print(device["properties"].get(words[0], ""))
        return 0
    if program == device.get("denied"):
        print(f"{program}: '{words[-1]}': Permission denied")
        return 1
    if program == "pkill":
        *options, name = words
        assert options == ["-KILL", "-x"]
        running = folder / "running" / name
        if not running.exists():
            return 1
        os.kill(int(running.read_text()), signal.SIGKILL)
        running.unlink()
        return 0
    if not program.startswith(TEMPORARY):
        assert program in ("mkdir", "chmod", "rm", "rmdir"), program
        words = [here(word) if word.startswith("/") else word for word in words]
        return subprocess.call([program, *words])
    assert os.access(here(program), os.X_OK)
    options = dict(word.removeprefix("--").split("=") for word in words)
    shutil.copyfile(here(options["graph"]), folder / "graph_that_ran")
    # A process of its own, which goes on without adb as on a device.
    process = subprocess.Popen(["sleep", str(device.get("seconds", 0))], start_new_session=True)
    running = folder / "running" / Path(program).name
    running.parent.mkdir(exist_ok=True)
    running.write_text(str(process.pid))
    process.wait()
    running.unlink()
    on_gpu = options["use_gpu"] == "true"
    print(device["gpu_output" if on_gpu else "output"])
    return device.get("gpu_status" if on_gpu else "status", 0)


if __name__ == "__main__":
    sys.exit(main())
