"""Processes with a Ray of their own, all of which end with the test."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Sandbox:
    """Processes with a Ray of their own, all of which end with the test."""

    def __init__(self, folder):
        self.ray_folder = folder
        self._processes = []
        self.mark = f"RAYLATENT_TEST_MARK={folder}"
        self.env = {
            **os.environ,
            "RAYLATENT_TEST_MARK": folder,
            "RAY_TMPDIR": folder,
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start(self, *command, stdin=None, **env):
        process = subprocess.Popen(  # noqa: S603  (our own jobs)
            [str(part) for part in command],
            cwd=ROOT,
            env={**self.env, **env},
            text=True,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def run(self, *command, timeout_s=300, **env):
        process = self.start(*command, **env)
        out, err = process.communicate(timeout=timeout_s)
        return process.returncode, out, err

    def job(self, name, *arguments):
        return [sys.executable, ROOT / "jobs" / f"{name}.py", *arguments]

    def alive(self):
        """Ids of processes of this sandbox: by their environment or open session."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            mine = self.mark.encode() in environ or self.ray_folder.encode() in command
            if mine and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return found

    def close(self):
        for _ in range(50):
            pids = self.alive()
            if not pids:
                break
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)
        for process in self._processes:
            process.wait()
            process.stdout.close()
            process.stderr.close()
            if process.stdin is not None:
                process.stdin.close()
        shutil.rmtree(self.ray_folder, ignore_errors=True)
