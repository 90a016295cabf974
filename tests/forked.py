"""Commands as forks of one process that has imported what is slow: torch and Lightning take five seconds, a fork none.

A command is a process of its own with its own arguments, environment, folder, search path and end, and none of altprop
is imported when it starts. Only what holds for a fresh interpreter (which modules it imports, how long its start takes,
what its options do) needs `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import multiprocessing.util
import os
import runpy
import select
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# What commands that train import; what is missing here costs time and nothing else.
SLOW = """
    torch torch._dynamo torch.func torch.utils.data torch.utils.flop_counter pytorch_lightning
    hydra hydra.core.override_parser.overrides_parser hydra._internal.config_loader_impl numpy pandas yaml
""".split()


class Command:
    """A command that was started; of `subprocess.Popen` it has what tests need."""

    def __init__(self, command: Sequence[str | Path], cwd: Path, env: Mapping[str, str]) -> None:
        """Start it.

        Args:
            command: a Python interpreter, then `-m MODULE`, `-c CODE` or a script, then their arguments.
            cwd: the folder it works in.
            env: all of its environment.
        """
        self.args = [str(part) for part in command]
        self.returncode: int | None = None
        self._files = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115, closed at its end
        self._printed = ("", "")
        self._reply, reply = os.pipe()
        request = json.dumps([self.args, str(cwd), dict(env)]).encode()
        with open(os.devnull) as nothing:
            files = [nothing.fileno(), *(file.fileno() for file in self._files), reply]
            socket.send_fds(_server(), [len(request).to_bytes(4, "big")], files)
        os.close(reply)
        _server().sendall(request)
        self.pid = int(self._line(None))

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code, -N where signal N ended it."""
        if self.returncode is None:
            self.returncode = int(self._line(timeout))
            os.close(self._reply)
            out, err = map(_all, self._files)
            self._printed = out, err
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end and return what it printed."""
        self.wait(timeout)
        return self._printed

    def send_signal(self, number: int) -> None:
        """Send it a signal, where it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _line(self, timeout: float | None) -> bytes:
        if not select.select([self._reply], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        line = b""
        while not line.endswith(b"\n"):
            read = os.read(self._reply, 1)
            assert read, f"{self.args} has lost who watches it"
            line += read
        return line


def _all(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode()


def run(
    command: Sequence[str | Path], cwd: Path, env: Mapping[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; see `Command`."""
    started = Command(command, cwd, env)
    try:
        out, err = started.communicate(timeout)
    finally:
        started.kill()
    return subprocess.CompletedProcess(started.args, started.wait(), out, err)


@functools.cache
def _server() -> socket.socket:
    """Start the process that is forked, and return where it takes requests; it ends with this one."""
    ours, theirs = socket.socketpair()
    paths = sysconfig.get_paths()
    libraries = [paths["purelib"], paths["platlib"]]
    # Without `site`: what the .pth files of an environment do is for the commands alone.
    command = [sys.executable, "-I", "-S", __file__, str(theirs.fileno()), *libraries]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, **threads})
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def _serve(requests: socket.socket) -> tuple[list[str], str, dict[str, str]]:
    """Fork a process for each request; return, in that process, its command, folder and environment."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who watches a command is waited for by nobody
    while True:
        size, files, _, _ = socket.recv_fds(requests, 4, 4)
        if not size:
            os._exit(0)
        command, cwd, env = json.loads(requests.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watched(files)
            return command, cwd, env
        for file in files:
            os.close(file)


def _watched(files: Sequence[int]) -> None:
    """Fork once more and return in the child, with its files in place; stay behind and tell its number and its end."""
    *printed, reply = files
    child = os.fork()
    if child == 0:
        os.close(reply)
        for number, file in enumerate(printed):
            os.dup2(file, number)
            os.close(file)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(reply, b"%d\n" % child)
    _, status = os.waitpid(child, 0)
    os.write(reply, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(command: Sequence[str], cwd: str, env: Mapping[str, str], standard: Sequence[str]) -> None:
    """Do what an interpreter does when it starts; `standard` is the search path of the standard library."""
    python, first, *arguments = command
    prefix = Path(python).parent.parent
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.executable, sys.prefix, sys.exec_prefix = python, str(prefix), str(prefix)
    # What this process was started with is not for the interpreters that the command starts.
    subprocess._args_from_interpreter_flags = multiprocessing.util._args_from_interpreter_flags = list  # type: ignore[attr-defined]
    added = env.get("PYTHONPATH", "")
    sys.path[:] = [*(added.split(os.pathsep) if added else ()), *standard]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    for folder in site.getsitepackages([str(prefix)]):
        site.addsitedir(folder)
    for module in ("random", "numpy.random"):
        sys.modules[module].seed()  # as if imported now
    if first == "-m":
        sys.path.insert(0, cwd)
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path.insert(0, str(Path(first).parent))
        sys.argv = [first, *arguments]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    _standard = [path for path in sys.path if path]
    sys.path += sys.argv[2:]
    for _name in SLOW:
        importlib.import_module(_name)
    gc.collect()
    gc.freeze()  # forks then leave these pages shared
    _become(*_serve(socket.socket(fileno=int(sys.argv[1]))), _standard)
