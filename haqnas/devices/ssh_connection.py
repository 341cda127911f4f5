"""One connection of the OpenSSH client to a board, and the private folder that lives there as long as it does.

The first command on the board makes the folder and waits for the end of its input. That ends with the
connection, with haqnas (even if it is killed), or by `close`: then the command ends the programs that still run and
removes the folder. Further commands share the connection (ControlMaster).
"""

import contextlib
import os
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from haqnas.devices.board import KILL
from haqnas.devices.process import Ended, last_words, run_client
from haqnas.errors import DeviceError

_CONNECT_S = 30.0
_CLOSE_S = 10.0
_FOLDERS = ("${TMPDIR:-/tmp}", "/tmp", "$HOME", "/var/tmp", "/dev/shm")
_OPTIONS = (
    "BatchMode=yes",  # asks for nothing: there may be no terminal
    "ConnectTimeout=15",
    "ServerAliveInterval=10",  # a board that is gone is known after half a minute
    "ServerAliveCountMax=3",
    "ControlPersist=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "PermitLocalCommand=no",
    "EscapeChar=none",
    "RemoteCommand=none",
    "LogLevel=INFO",  # its words are read where it fails
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the board is, and how the host is checked."""

    uri: str
    client: str  # path of ssh
    user: str | None
    host: str
    port: str | None
    config: str | None  # path of an ssh_config instead of the user's
    accepts_new_key: bool
    folders: tuple[str, ...]  # on the board; none: the usual ones

    @property
    def login(self) -> str:
        """As one would type it after `ssh`."""
        port = f"-p {self.port} " if self.port else ""
        return port + (f"{self.user}@{self.host}" if self.user else self.host)

    def command(self, *options: str) -> list[str]:
        """`ssh` with what all calls share, up to the command on the board."""
        checking = "accept-new" if self.accepts_new_key else "yes"
        fixed = [f"-o{option}" for option in (*_OPTIONS, f"StrictHostKeyChecking={checking}")]
        config = ["-F", self.config] if self.config else []
        port = ["-p", self.port] if self.port else []
        user = ["-l", self.user] if self.user else []
        return [self.client, "-T", *config, *fixed, *options, *port, *user, "--", self.host]


class Connection:
    """Opened by making it. `facts` is what was last read of the board."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.facts: Mapping[str, str] = {}
        self._control = Path(tempfile.mkdtemp(prefix="haqnas-", dir="/tmp"))
        word = secrets.token_hex(8)
        socket = self._control / "socket"
        command = [*endpoint.command("-M", "-S", str(socket)), _shell(_keeper_script(endpoint.folders, word))]
        with (self._control / "stderr").open("wb") as stderr:
            self._keeper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
            )
        self._close = weakref.finalize(self, _close, self._keeper, self._control)
        try:
            self.folder = self._read_hello(word)
        except BaseException:
            self.close()
            raise

    def is_open(self) -> bool:
        """Whether the client still holds the connection."""
        return self._close.alive and self._keeper.poll() is None

    def close(self) -> None:
        """End it, and with it all that is on the board."""
        self._close()

    def execute(self, script: str, name: str, timeout_s: float, stdin: bytes = b"") -> Ended:
        """Run a script on the board; raises DeviceError where it does not answer in time, and closes then."""
        # Without the shared connection the client would open one of its own: this command makes that fail.
        options = ("-S", str(self._control / "socket"), "-oProxyCommand=exit 1")
        command = [*self.endpoint.command(*options), _shell(script)]
        try:
            return run_client(command, f"{name} ({self.endpoint.uri})", timeout_s, stdin)
        except DeviceError as error:
            self.close()
            raise DeviceError(f"{self.endpoint.uri} does not answer: {error}") from None

    def lost(self, name: str, words: str) -> DeviceError:
        """The error for an answer that is not whole; the connection is closed, as nothing on it can be trusted."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(1.0)  # it may be about to notice
        is_dropped = not self.is_open()
        words += self._words()
        self.close()
        if is_dropped:
            return DeviceError(
                f"the connection to {self.endpoint.uri} was lost while {name} ran{last_words(words)}"
            )
        return DeviceError(
            f"{self.endpoint.uri} gave an answer that is not whole while {name} ran{last_words(words)}"
        )

    def _read_hello(self, word: str) -> str:
        """The private folder on the board, from the first line of the keeper."""
        assert self._keeper.stdout is not None
        deadline_s, printed = time.monotonic() + _CONNECT_S, b""
        marker = f"@{word}@ ".encode()
        while marker not in printed or b"\n" not in printed.partition(marker)[2]:
            left_s = deadline_s - time.monotonic()
            is_ready = left_s > 0 and select.select([self._keeper.stdout], [], [], left_s)[0]
            if not is_ready:
                raise DeviceError(f"{self.endpoint.uri} did not answer within {_CONNECT_S:g} s")
            piece = os.read(self._keeper.stdout.fileno(), 1 << 16)
            if not piece:
                self._keeper.wait(_CLOSE_S)
                raise DeviceError(_explain(self.endpoint, self._words()))
            printed += piece
        folder = printed.partition(marker)[2].partition(b"\n")[0].decode(errors="replace")
        if not folder.startswith("/"):
            tried = ", ".join(self.endpoint.folders or _FOLDERS)
            raise DeviceError(
                f"{self.endpoint.uri} has no folder where a program may be written and executed (tried {tried}); "
                "?folder=/path names one"
            )
        return folder

    def _words(self) -> str:
        path = self._control / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""


def _shell(script: str) -> str:
    """A command line for whatever shell the user has on the board."""
    return f"exec sh -c {shlex.quote(script)}"


def _keeper_script(folders: tuple[str, ...], word: str) -> str:
    bases = " ".join(map(shlex.quote, folders)) or " ".join(f'"{folder}"' for folder in _FOLDERS)
    return f"""
umask 077
trap '' HUP INT PIPE TERM
folder=
for base in {bases}; do
  folder=$base/haqnas-{word}
  mkdir -m 700 "$folder" 2>/dev/null || {{ folder=; continue; }}
  printf '#!/bin/sh\\nexit 0\\n' >"$folder/probe" && chmod 700 "$folder/probe" && "$folder/probe" && break
  rm -rf "$folder"
  folder=
done
printf '\\n@%s@ %s\\n' {word} "$folder"
[ -n "$folder" ] || exit 1
cat >/dev/null
for pid in "$folder"/*/pid; do
  if [ -f "$pid" ]; then {KILL.format('$(cat "$pid")')}; fi
done 2>/dev/null
for try in 1 2 3; do  # a command may be at work there still
  rm -rf "$folder" && break
  sleep 1
done 2>/dev/null
"""


def _close(keeper: subprocess.Popen[bytes], control: Path) -> None:
    """Also runs when the connection is collected, and at exit."""
    for stream in (keeper.stdin, keeper.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        keeper.wait(_CLOSE_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()
    shutil.rmtree(control, ignore_errors=True)


def _explain(endpoint: Endpoint, words: str) -> str:
    """Why ssh gave up, and what to type."""
    uri, login = endpoint.uri, endpoint.login
    if "IDENTIFICATION HAS CHANGED" in words:
        return (
            f"{uri} shows another host key than the one that is known: the board was reinstalled, or it is not the "
            f"board; find out, then type: ssh-keygen -R {endpoint.host}, and log in once: ssh {login}"
        )
    if "host key is known" in words or "Host key verification failed" in words:
        return (
            f"the host key of {uri} is not known, so it may be any machine; type: ssh {login} (once, and compare the "
            "fingerprint), or let haqnas take the key that it shows now: ?hostkey=accept-new"
        )
    if "Permission denied" in words or "Too many authentication failures" in words:
        return (
            f"{uri} refuses the login, and haqnas never asks for a password; type: ssh-copy-id {login}"
            f"{last_words(words, 1)}"
        )
    return f"{uri} cannot be reached{last_words(words, 3)}; does `ssh {login} true` work?"
