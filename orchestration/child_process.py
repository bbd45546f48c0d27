"""Server processes that never outlive the process that started them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from assets.errors import HeadraceError

LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1
_LOCK_SECONDS = 30.0
_MAX_LOG_BYTES = 64 * 1024 * 1024


class ServerProcessError(HeadraceError):
    """A server process did not come up, or ended by itself."""


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` if nothing listens there on loopback, else any free port.

    The others are below Linux's ephemeral range (ip_local_port_range, from 32768): no outgoing connection takes one
    before the server that it is meant for does.
    """
    for port in (preferred, *random.SystemRandom().sample(range(10_000, 32_768), 50)):
        if port is None:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise ServerProcessError("no free port on 127.0.0.1.")


def port_answers(port: int) -> bool:
    """Tell whether something accepts connections on this loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


class ChildProcess:
    """One server process in its own process group, its output in a log file.

    The kernel ends the child when the starting *thread* ends (``PR_SET_PDEATHSIG``), so start it from a thread that
    lives as long as the child should.

    Args:
        name: how messages call it.
        args: command and arguments.
        log: file that its output is appended to; a file above 64 MB is moved aside first.
        env: its whole environment; default: a copy of this process's.
        user: user id to run as; needs root.
        stop_signal: signal that asks it to end.
        grace_seconds: how long it may take to end before it is killed.
        cwd: working folder.
        lock: file that the child holds locked while it lives, also after a starter that was killed: at most one such
            child lives, and the next one waits for it to end.
    """

    def __init__(
        self,
        name: str,
        args: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_seconds: float = 10,
        cwd: Path | None = None,
        lock: Path | None = None,
    ) -> None:
        self.name = name
        self.args = list(args)
        self.log = log
        self.env = dict(os.environ if env is None else env)
        self.user = user
        self.stop_signal = stop_signal
        self.grace_seconds = grace_seconds
        self.cwd = cwd
        self.lock = lock
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise ServerProcessError("is not started.", where=self.name)
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def returncode(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def start(self) -> None:
        """Start the process; it may need a moment until it answers, see `wait_until`.

        Raises:
            ServerProcessError: the child of a killed starter still holds the lock.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        libc = _libc()
        parent = os.getpid()
        death_signal = int(self.stop_signal)

        def die_with_parent() -> None:
            for ends in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(ends, signal.SIG_DFL)  # what this process ignores (nohup) must still end a child
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, death_signal)
                if os.getppid() != parent:  # the parent died between fork and prctl
                    os._exit(1)

        with self.log.open("ab") as output, self._locked() as inherited:
            self.process = subprocess.Popen(
                self.args,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.cwd,
                pass_fds=inherited,
                start_new_session=True,
                preexec_fn=die_with_parent,
                user=self.user,
                group=None if self.user is None else self.user,
                extra_groups=None if self.user is None else [],
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[tuple[int, ...]]:
        """The descriptor that the child inherits: the lock ends when the last process that has it open does."""
        if self.lock is None:
            yield ()
            return
        deadline = time.monotonic() + _LOCK_SECONDS
        with self.lock.open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ServerProcessError(
                            f"one that was started before still runs after {_LOCK_SECONDS:.0f} s.",
                            where=self.name,
                            remedy=f"End the process that holds {self.lock}: fuser -k {self.lock}",
                        ) from None
                    time.sleep(0.05)
            yield (file.fileno(),)

    def listens(self, *ports: int) -> bool:
        """Tell whether it, or a process it started, accepts connections on each port: others' servers do not count."""
        if not (self.running and all(port_answers(port) for port in ports)):
            return False
        open_ports: set[int] = set()
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            for member in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    connections = member.net_connections("tcp")
                    open_ports |= {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
        return open_ports.issuperset(ports)

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready()` is true.

        Raises:
            ServerProcessError: it ended by itself or was not ready in time; the message holds its last log lines.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise ServerProcessError(f"ended with status {self.returncode}: {self.last_lines()}", where=self.name)
            if time.monotonic() > deadline:
                raise ServerProcessError(f"did not answer within {seconds:.0f} s: {self.last_lines()}", where=self.name)
            time.sleep(0.05)

    def last_lines(self, count: int = 8) -> str:
        """Return the end of the log, at most `count` lines and 2,000 characters."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 8192))
                text = log.read().decode(errors="replace")
        except OSError:
            return f"no log at {self.log}"
        return "\n".join(text.splitlines()[-count:])[-2000:] + f"\n(log: {self.log})"

    def stop(self) -> None:
        """Ask it to end, kill its whole group after the grace time. Safe to call twice."""
        process = self.process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.grace_seconds)
        self.kill_group()

    def kill_group(self) -> None:
        """SIGKILL whatever is left of its process group."""
        process = self.process
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            if process.poll() is None:
                process.kill()
        process.wait()
