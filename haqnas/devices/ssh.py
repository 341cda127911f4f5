"""A board that is reached by the system's OpenSSH client; nothing needs to be installed on it but a shell."""

import re
import secrets
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from threading import Lock

from haqnas.devices import board
from haqnas.devices.board import Pinning
from haqnas.devices.device import NO_FILES, Completed, Files, LatencyKind
from haqnas.devices.fingerprint import Facts, Fingerprint
from haqnas.devices.registry import DeviceRequest
from haqnas.devices.ssh_connection import Connection, Endpoint
from haqnas.errors import ConfigurationError, DeviceError

_ADDRESS = re.compile(
    r"//(?:(?P<user>[\w.][\w.-]*)@)?(?P<host>[\w.][\w.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?/?"
)
_OPTIONS = ("cores", "hostkey", "config", "folder")
_MARGIN_S = 30.0  # beyond a program's own limit, which the board enforces
_COPY_S = 60.0  # and a second for each so many bytes
_SLOWEST_BYTES_PER_S = 50_000


@dataclass(slots=True)
class Session:
    """What is known about a board while a connection to it stands."""

    connection: Connection
    pinning: Pinning
    copied: set[str] = field(default_factory=set)  # names of executables that lie there
    runs: int = 0


@dataclass(frozen=True, slots=True)
class SshDevice:
    """One connection for all runs, opened by the first and closed when this object goes.

    Each executable is copied once, under the hash of its content. The board removes everything when the
    connection ends, for whatever reason.
    """

    endpoint: Endpoint
    asked_cores: str | None = None
    threads: int = 1
    latency_kind: LatencyKind = "measured"
    sessions: list[Session] = field(default_factory=list, compare=False, repr=False)  # none or one
    lock: Lock = field(default_factory=Lock, compare=False, repr=False)

    @property
    def uri(self) -> str:
        return self.endpoint.uri

    def run(
        self,
        executable: Path,
        arguments: Sequence[str],
        timeout_s: float,
        given: Files = NO_FILES,
        wanted: Sequence[str] = (),
    ) -> Completed:
        with self.lock:
            session = self._session()
            try:
                return self._run(session, executable, arguments, timeout_s, given, wanted)
            except DeviceError:
                if not session.connection.is_open():
                    self._forget(session)
                raise
            except BaseException:
                self._forget(session)  # interrupted: the board ends the program with the connection
                raise

    def fingerprint(self) -> Fingerprint:
        with self.lock:
            session = self._session()
            return board.describe_board(self.uri, _read_facts(session.connection), session.pinning)

    def close(self) -> None:
        """End the connection; the next run opens another."""
        with self.lock:
            for session in tuple(self.sessions):
                self._forget(session)

    def _session(self) -> Session:
        for session in tuple(self.sessions):
            if session.connection.is_open():
                return session
            self._forget(session)
        connection = Connection(self.endpoint)
        try:
            pinning = board.plan_pinning(
                _read_facts(connection), self.asked_cores, self.threads, self.endpoint.uri
            )
        except BaseException:
            connection.close()
            raise
        self.sessions.append(Session(connection, pinning))
        return self.sessions[0]

    def _forget(self, session: Session) -> None:
        self.sessions.remove(session)
        session.connection.close()

    def _run(
        self,
        session: Session,
        executable: Path,
        arguments: Sequence[str],
        timeout_s: float,
        given: Files,
        wanted: Sequence[str],
    ) -> Completed:
        connection, name = session.connection, f"{executable.name} on {self.uri}"
        program = self._copy_executable(session, executable)
        session.runs += 1
        folder = f"{connection.folder}/{session.runs}"
        for path, data in given.items():
            _copy(connection, f"{session.runs}/{board.PLACE}/{path}", data, is_executable=False)
        word = secrets.token_hex(8)
        script = board.run_script(
            folder, f"../{program}", arguments, timeout_s, wanted, session.pinning, word
        )
        # `cd` first: a folder that was removed meanwhile must not be made again.
        base = shlex.quote(connection.folder)
        script = (
            f"cd {base} && mkdir -p {session.runs} || exit 1\n{script}\ncd {base} && rm -rf {session.runs}"
        )
        started_s = time.perf_counter()
        ended = connection.execute(script, name, timeout_s + _MARGIN_S)
        completed = board.read_run(ended.stdout, word, name, timeout_s, time.perf_counter() - started_s)
        if completed is None:
            raise connection.lost(name, ended.stderr)
        return completed

    def _copy_executable(self, session: Session, executable: Path) -> str:
        try:
            with executable.open("rb") as stream:
                program = f"program-{file_digest(stream, 'sha256').hexdigest()[:32]}"
        except OSError as error:
            raise DeviceError(f"{executable} cannot be read: {error.strerror}") from None
        if program not in session.copied:
            board.check_architecture(executable, session.connection.facts, self.uri)
            _copy(session.connection, program, executable.read_bytes(), is_executable=True)
            session.copied.add(program)
        return program


def open_device(request: DeviceRequest) -> SshDevice:
    """`ssh://[user@]host[:port]`; options: docs/devices.md. Connects at the first run.

    Raises ConfigurationError for a URI that makes no sense, DeviceError where there is no ssh here.
    """
    uri = request.uri
    uri.check_options(_OPTIONS)
    match = _ADDRESS.fullmatch(uri.address)
    if match is None or not 0 < int(match["port"] or 22) < 65536:
        raise ConfigurationError(
            f"--device {uri.text}: a board is ssh://user@host:port (user and port may be left out; "
            "an IPv6 address stands in brackets)"
        )
    hostkey = uri.options.get("hostkey", "known")
    if hostkey not in {"known", "accept-new"}:
        raise ConfigurationError(
            f"--device {uri.text}: hostkey is known (the default: an unknown host is refused) or accept-new, "
            f"but got {hostkey!r}"
        )
    folder = uri.options.get("folder")
    if folder is not None and not folder.startswith("/"):
        raise ConfigurationError(
            f"--device {uri.text}: folder is an absolute path on the board, but got {folder!r}"
        )
    client = shutil.which("ssh")
    if client is None:
        raise DeviceError(f"--device {uri.text}: ssh is not installed here; type: apt install openssh-client")
    endpoint = Endpoint(
        uri=uri.text,
        client=client,
        user=match["user"],
        host=match["host"].strip("[]"),
        port=match["port"],
        config=uri.options.get("config"),
        accepts_new_key=hostkey == "accept-new",
        folders=(folder,) if folder else (),
    )
    return SshDevice(endpoint, uri.options.get("cores"), request.threads)


def _read_facts(connection: Connection) -> Facts:
    word = secrets.token_hex(8)
    ended = connection.execute(board.facts_script(word), "the shell", _MARGIN_S)
    facts = board.read_facts(ended.stdout, word)
    if facts is None:
        raise connection.lost("the shell", ended.stderr)
    connection.facts = facts
    return facts


def _copy(connection: Connection, place: str, data: bytes, is_executable: bool) -> None:
    """To a place in the private folder, under another name until it is whole."""
    quoted, parent = shlex.quote(place), shlex.quote(str(Path(place).parent))
    mode = "700" if is_executable else "600"
    script = (
        f"cd {shlex.quote(connection.folder)} && mkdir -p {parent} && cat >{quoted}.part"
        f" && chmod {mode} {quoted}.part && mv {quoted}.part {quoted}"
    )
    limit_s = _COPY_S + len(data) / _SLOWEST_BYTES_PER_S
    ended = connection.execute(script, f"the copy of {len(data):,} bytes", limit_s, data)
    if ended.exit_code == 0:
        return
    if not connection.is_open():
        raise connection.lost("the copy", ended.stderr)
    raise DeviceError(
        f"{connection.endpoint.uri} does not take {len(data):,} bytes into {connection.folder}: "
        f"{ended.stderr.strip()}; ?folder=/path names a folder with room"
    )
