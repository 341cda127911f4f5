"""A TVM RPC server, or one that a TVM tracker lends, as a device that runs executables.

RPC servers call functions of modules and have none that runs a program, so a module of one function is uploaded
beside the executable. What is measured is then the same program, by the same clock, as on any other device.
"""

import functools
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from haqnas.devices import board
from haqnas.devices.board import Pinning
from haqnas.devices.device import NO_FILES, Completed, Files, LatencyKind
from haqnas.devices.fingerprint import Facts, Fingerprint
from haqnas.devices.process import last_words, place_files, run_client, run_process
from haqnas.devices.registry import DeviceRequest
from haqnas.devices.tvm_client import FOLDER, Job, is_loopback
from haqnas.errors import ConfigurationError, DeviceError

_ADDRESS = re.compile(r"//(?P<host>[\w.][\w.-]*|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})(?:/(?P<key>[\w.-]*))?")
_OPTIONS = ("tracker", "insecure", "cores", "wait")
_PROGRAM = "haqnas-program"
_COMPILE_S = 120.0
_FACTS_S = 30.0
_MARGIN_S = 30.0  # for the start of the client and the copies
_SLOWEST_BYTES_PER_S = 50_000
_WAIT_S = 60.0  # for a tracker's server that is busy


@dataclass(frozen=True, slots=True)
class RpcServer:
    """Where a server or tracker is, and what the user allows."""

    uri: str
    host: str
    port: int
    key: str
    is_tracker: bool
    allows_remote: bool
    wait_s: float


@dataclass(frozen=True, slots=True)
class TvmRpcDevice:
    """Each run is a session of its own, after which the server removes all files of it."""

    server: RpcServer
    arch: str
    asked_cores: str | None = None
    threads: int = 1
    latency_kind: LatencyKind = "measured"
    known: list[Facts] = field(default_factory=list, compare=False, repr=False)  # none or one

    @property
    def uri(self) -> str:
        return self.server.uri

    def run(
        self,
        executable: Path,
        arguments: Sequence[str],
        timeout_s: float,
        given: Files = NO_FILES,
        wanted: Sequence[str] = (),
    ) -> Completed:
        name, word = f"{executable.name} on {self.uri}", secrets.token_hex(8)
        if not self.known:
            self.known.append(self._read_facts())
        board.check_architecture(executable, self.known[0], self.uri)
        places = {f"haqnas-given{index}": path for index, path in enumerate(given)}
        script = "\n".join(
            (
                f"chmod 700 '{FOLDER}/{_PROGRAM}'",
                board.place_script(places, FOLDER),
                board.run_script(FOLDER, _PROGRAM, arguments, timeout_s, wanted, self._pinning(), word),
            )
        )
        files = dict(zip(places, given.values(), strict=True))
        started_s = time.perf_counter()
        printed = self._execute(script, {_PROGRAM: executable.resolve()}, files, timeout_s, name)
        completed = board.read_run(printed, word, name, timeout_s, time.perf_counter() - started_s)
        if completed is None:
            raise DeviceError(f"{self.uri} gave an answer that is not whole while {name} ran")
        return completed

    def fingerprint(self) -> Fingerprint:
        self.known[:] = [self._read_facts()]
        return board.describe_board(self.uri, self.known[0], self._pinning())

    def _pinning(self) -> Pinning:
        return board.plan_pinning(self.known[0], self.asked_cores, self.threads, self.uri)

    def _read_facts(self) -> Facts:
        word = secrets.token_hex(8)
        printed = self._execute(board.facts_script(word), {}, NO_FILES, _FACTS_S, "the shell")
        facts = board.read_facts(printed, word)
        if facts is None:
            raise DeviceError(f"{self.uri} runs no commands: its shell printed {printed[:200]!r}")
        return facts

    def _execute(
        self, script: str, sources: Mapping[str, Path], files: Files, timeout_s: float, name: str
    ) -> bytes:
        """What the script prints on the server, beside which the files lie; raises DeviceError."""
        with tempfile.TemporaryDirectory(prefix="haqnas-") as scratch:
            folder = Path(scratch)
            place_files(folder, {**files, "shell.so": compile_shell(self.arch)}, name)
            paths = {file: folder / file for file in files} | dict(sources)
            size_bytes = sum(path.stat().st_size for path in paths.values())
            limit_s = timeout_s + _MARGIN_S + size_bytes / _SLOWEST_BYTES_PER_S
            job = Job(
                host=self.server.host,
                port=self.server.port,
                key=self.server.key,
                is_tracker=self.server.is_tracker,
                allows_remote=self.server.allows_remote,
                timeout_s=limit_s,
                files={file: str(path) for file, path in paths.items()},
                script=script,
                shell=str(folder / "shell.so"),
                printed=str(folder / "printed"),
            )
            (folder / "job.json").write_text(job.to_json())
            command = [sys.executable, "-m", "haqnas.devices.tvm_client", str(folder / "job.json")]
            ended = run_client(command, f"{name}: the session with {self.uri}", limit_s + self._extra_s())
            if ended.exit_code != 0:
                raise DeviceError(f"{self.uri} failed while {name} ran{last_words(ended.stderr, 3)}")
            return (folder / "printed").read_bytes()

    def _extra_s(self) -> float:
        return _MARGIN_S + (self.server.wait_s if self.server.is_tracker else 0.0)


def open_device(request: DeviceRequest) -> TvmRpcDevice:
    """`tvm-rpc://host:port[/key]`, and `tvm-rpc://host:port/key?tracker`; options: docs/devices.md.

    Raises ConfigurationError for a URI that makes no sense, or a host that is not this machine where `insecure` is
    not given; DeviceError for a host without an address.
    """
    uri = request.uri
    uri.check_options(_OPTIONS)
    match = _ADDRESS.fullmatch(uri.address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ConfigurationError(
            f"--device {uri.text}: an RPC server is tvm-rpc://host:port/key, a tracker's tvm-rpc://host:port/key?tracker"
        )
    is_tracker = "tracker" in uri.options
    if is_tracker and not match["key"]:
        raise ConfigurationError(
            f"--device {uri.text}: a tracker lends servers by their key: tvm-rpc://host:port/key?tracker"
        )
    server = RpcServer(
        uri=uri.text,
        host=match["host"].strip("[]"),
        port=int(match["port"]),
        key=match["key"] or "",
        is_tracker=is_tracker,
        allows_remote="insecure" in uri.options,
        wait_s=_read_wait(uri.text, uri.options.get("wait")),
    )
    if not server.allows_remote:
        _require_loopback(server)
    return TvmRpcDevice(server, request.profile.arch, uri.options.get("cores"), request.threads)


def _read_wait(uri: str, text: str | None) -> float:
    if text is None:
        return _WAIT_S
    if not text.isdigit():
        raise ConfigurationError(f"--device {uri}: wait is a number of seconds, but got {text!r}")
    return float(text)


def _require_loopback(server: RpcServer) -> None:
    try:
        is_here = is_loopback(server.host, server.port)
    except OSError as error:
        raise DeviceError(f"{server.uri}: {server.host} has no address: {error.strerror}") from None
    if not is_here:
        raise ConfigurationError(
            f"--device {server.uri}: {server.host} is not this machine, and RPC is neither encrypted nor does it know "
            "who calls: whoever reaches the port runs any code there, and whoever is on the way reads and changes "
            f"everything; type: ssh -L {server.port}:localhost:{server.port} {server.host}, and use "
            f"tvm-rpc://localhost:{server.port}, or add ?insecure in a network that you trust"
        )


@functools.cache
def compile_shell(arch: str) -> bytes:
    """The module that runs commands on a server of this architecture; raises DeviceError."""
    source = Path(__file__).with_name("tvm_shell.c")
    with tempfile.TemporaryDirectory(prefix="haqnas-") as scratch:
        target = Path(scratch) / "shell.so"
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-gnu"]
        options = ["-shared", "-fPIC", "-nostdlib", "-O2", "-s", "-Wl,-z,undefs"]
        name = "the compiler of the module for RPC servers"
        completed = run_process([*compiler, *options, "-o", str(target), str(source)], name, _COMPILE_S)
        if completed.exit_code != 0:
            raise DeviceError(f"{name} failed: {completed.stderr.strip()[-500:]}")
        return target.read_bytes()
