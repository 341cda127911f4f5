"""TVM RPC servers and trackers, real ones on loopback, and what goes wrong with them."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

import haqnas
from haqnas.devices import tvm_rpc
from haqnas.devices.choose import device_for
from haqnas.devices.latency import TimingPlan
from haqnas.devices.local import read_host_cpu
from haqnas.devices.tvm_rpc import TvmRpcDevice, compile_shell
from haqnas.errors import ConfigurationError, DeviceError, ProgramError
from haqnas.hardware import find_profile
from tests.devices.programs import running, wait_until
from tests.devices.servers import free_port, serving

HOST = read_host_cpu()


@dataclass(frozen=True)
class Servers:
    """A tracker that lends a server of the key `board`, and a server of the key `alone`."""

    tracker_port: int
    port: int
    log: Path


@contextmanager
def tvm_serving(folder: Path, name: str, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    ports = ("--port", str(port), "--port-end", str(port + 1))
    command = [sys.executable, "-m", f"tvm.exec.{name}", "--host", "127.0.0.1", *ports, *options]
    (folder / "torch.py").write_text("raise ImportError")  # servers that start without torch and the compiler
    light = {"TVM_USE_RUNTIME_LIB": "1", "PYTHONPATH": str(folder)}
    with mock.patch.dict(os.environ, light), serving(command, port, folder / f"{name}-{port}.log") as process:
        try:
            yield process
        finally:
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)


def children(pid: int) -> Sequence[int]:
    """Of all generations, grandchildren first."""
    own = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(word) for path in own for word in path.read_text().split()]
    return [*(late for child in direct for late in children(child)), *direct]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("tvm")
    tracker_port, lent, port = free_port(), free_port(), free_port()
    tracker = ("--tracker", f"127.0.0.1:{tracker_port}", "--key", "board")
    with (
        tvm_serving(folder, "rpc_tracker", tracker_port),
        tvm_serving(folder, "rpc_server", lent, *tracker),
        tvm_serving(folder, "rpc_server", port, "--key", "alone"),
    ):
        yield Servers(tracker_port, port, folder / f"rpc_server-{port}.log")


def open_server(uri: str) -> TvmRpcDevice:
    device = device_for(find_profile("host", HOST), uri, HOST)
    assert isinstance(device, TvmRpcDevice)
    return device


@pytest.fixture
def device(servers: Servers) -> TvmRpcDevice:
    return open_server(f"tvm-rpc://127.0.0.1:{servers.port}/alone")


def test_program_runs_with_its_files_on_one_core(device: TvmRpcDevice, actor: Path) -> None:
    done = device.run(actor, ["copy"], 10.0, {"a/in.bin": b"\x00\xff\n@"}, ["out/x.bin", "none"])
    assert (done.exit_code, done.files) == (0, {"out/x.bin": b"\x00\xff\n@"})
    assert len(device.run(actor, ["cores"], 10.0).stdout.split()) == 1
    assert device.run(actor, ["stdin"], 10.0).stdout == "0"


def test_network_is_compiled_checked_and_timed_on_the_server(servers: Servers, tmp_path: Path) -> None:
    uri = f"tvm-rpc://127.0.0.1:{servers.port}/alone"
    convolutions = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, padding=1), nn.ReLU())
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256, 10))
    image = torch.zeros(1, 1, 8, 8)  # as large as the digits of scikit-learn
    artifact = haqnas.compile(model, (image,), output=tmp_path / "out", device=uri, formats=("exe",))
    latency = artifact.manifest.latency
    assert latency is not None
    assert (latency.kind, latency.device) == ("measured", uri)
    checks = {check.name: check for check in artifact.verify(uri)}
    assert {check.result for check in checks.values()} == {"ok"}
    assert checks["self test"].detail.endswith(f"on {uri}")
    timed = artifact.bench(uri, TimingPlan(runs=20))
    assert (timed.kind, timed.device, timed.count) == ("measured", uri, 20)
    assert timed.median_s is not None
    assert 0 < timed.median_s < 1


def test_tracker_lends_a_server_and_gets_it_back(servers: Servers, actor: Path) -> None:
    device = open_server(f"tvm-rpc://localhost:{servers.tracker_port}/board?tracker")
    for _ in range(2):
        assert device.run(actor, ["fail"], 10.0).stderr == "wrong input\n"


def test_fingerprint_is_that_of_the_same_machine_here(device: TvmRpcDevice) -> None:
    here = device_for(find_profile("host", HOST), "local", HOST)
    assert here is not None
    assert device.fingerprint().key == here.fingerprint().key


def test_nothing_is_left_on_the_server(device: TvmRpcDevice, servers: Servers, actor: Path) -> None:
    device.run(actor, ["fail"], 10.0)
    folders = [
        Path(line.split()[-1]) for line in servers.log.read_text().splitlines() if "serving at" in line
    ]
    assert folders
    wait_until(lambda: not any(folder.exists() for folder in folders), "the folders are gone")


def test_hanging_program_is_ended_and_the_next_runs(device: TvmRpcDevice, actor: Path) -> None:
    with pytest.raises(DeviceError, match=r"did not end within 1 s and was stopped; its last words: waiting"):
        device.run(actor, ["hang"], 1.0)
    wait_until(lambda: not running("haqnas-program hang"), "the program is gone")
    assert device.run(actor, ["fail"], 10.0).exit_code == 5


def test_crashes_are_the_programs(device: TvmRpcDevice, actor: Path) -> None:
    with pytest.raises(ProgramError, match="SIGABRT"):
        device.run(actor, ["crash"], 10.0)


def test_garbage_and_full_disks_are_told(device: TvmRpcDevice, actor: Path) -> None:
    assert device.run(actor, ["garbage"], 10.0).stdout == "\ufffd\x00@\n@ end"
    with pytest.raises(DeviceError, match="want of disk space"):
        device.run(actor, ["fill", "/dev/full"], 10.0)


@contextmanager
def proxy(port: int) -> Iterator[tuple[int, threading.Event]]:
    """A way to a server that breaks when the event is set. Gives its port and the event."""
    is_broken = threading.Event()

    def forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)

    def accept(listener: socket.socket) -> None:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        for pair in ((client, server), (server, client)):
            threading.Thread(target=forward, args=pair, daemon=True).start()
        is_broken.wait(60.0)
        for end in (client, server):
            end.shutdown(socket.SHUT_RDWR)
            end.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        yield listener.getsockname()[1], is_broken
        thread.join()


def test_connection_that_drops_in_the_middle_is_told_and_the_next_runs(
    servers: Servers, device: TvmRpcDevice, actor: Path
) -> None:
    device.fingerprint()
    with proxy(servers.port) as (port, is_broken):
        broken = open_server(f"tvm-rpc://127.0.0.1:{port}/alone")
        broken.known[:] = device.known

        def drop() -> None:
            wait_until(lambda: bool(running("haqnas-program hang")), "the program runs")
            is_broken.set()

        thread = threading.Thread(target=drop)
        thread.start()
        with pytest.raises(DeviceError, match=r"failed while actor on tvm-rpc://.* ran"):
            broken.run(actor, ["hang"], 5.0)
        thread.join()
    assert device.run(actor, ["fail"], 10.0).exit_code == 5


def test_server_that_is_not_there_is_told(actor: Path) -> None:
    with pytest.raises(DeviceError, match=r"failed while the shell ran; its last words: .*onnect"):
        open_server(f"tvm-rpc://127.0.0.1:{free_port()}").run(actor, [], 10.0)


def test_wrong_key_is_told(servers: Servers, actor: Path) -> None:
    with pytest.raises(DeviceError, match="cannot find server that matches key=client:nobody"):
        open_server(f"tvm-rpc://127.0.0.1:{servers.port}/nobody").run(actor, [], 10.0)


def test_key_that_the_tracker_does_not_know_is_told(servers: Servers, actor: Path) -> None:
    with pytest.raises(DeviceError, match=r"no server of the key 'nobody'; those that it knows: board"):
        open_server(f"tvm-rpc://127.0.0.1:{servers.tracker_port}/nobody?tracker").run(actor, [], 10.0)


@contextmanager
def answering(data: bytes | None) -> Iterator[int]:
    """A server that sends `data` to whoever connects, then hangs up; None: it says nothing. Gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if data is not None:

            def answer() -> None:
                while True:
                    try:
                        peer, _ = listener.accept()
                    except OSError:
                        return
                    with peer:
                        peer.recv(64)
                        peer.sendall(data)

            threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_server_that_answers_garbage_is_given_up(actor: Path) -> None:
    with (
        answering(b"\x13\x37" * 4000) as port,
        pytest.raises(DeviceError, match="failed while the shell ran"),
    ):
        open_server(f"tvm-rpc://127.0.0.1:{port}").run(actor, [], 10.0)


def test_server_that_says_nothing_is_given_up(actor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tvm_rpc, "_FACTS_S", 1.0)
    monkeypatch.setattr(tvm_rpc, "_MARGIN_S", 1.0)
    with (
        answering(None) as port,
        pytest.raises(DeviceError, match=r"the session with .* did not end within 3"),
    ):
        open_server(f"tvm-rpc://127.0.0.1:{port}").run(actor, [], 10.0)


def test_server_elsewhere_that_a_tracker_names_is_refused(servers: Servers, actor: Path) -> None:
    from tvm.rpc import base

    with socket.create_connection(("127.0.0.1", servers.tracker_port)) as tracker:
        tracker.sendall(base.RPC_TRACKER_MAGIC.to_bytes(4, "little"))
        base.recvall(tracker, 4)
        away = {"key": "server:away", "addr": ("192.0.2.1", 9090)}
        base.sendjson(tracker, [base.TrackerCode.UPDATE_INFO, away])
        base.recvjson(tracker)
        base.sendjson(tracker, [base.TrackerCode.PUT, "away", (9090, "away:0.1"), "192.0.2.1"])
        base.recvjson(tracker)
        with pytest.raises(
            DeviceError, match=r"names the server 192.0.2.1:9090, which is not on this machine"
        ):
            open_server(f"tvm-rpc://127.0.0.1:{servers.tracker_port}/away?tracker").run(actor, [], 10.0)


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]"])
def test_plain_text_to_other_machines_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"runs any code there, .* type: ssh -L 9090:localhost:9090"):
        open_server(f"tvm-rpc://{host}:9090")
    assert open_server(f"tvm-rpc://{host}:9090?insecure").server.allows_remote


def test_loopback_is_allowed_by_any_name() -> None:
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "[::1]"):
        assert not open_server(f"tvm-rpc://{host}:9090").server.allows_remote


def test_host_without_an_address_is_told() -> None:
    with pytest.raises(DeviceError, match="has no address"):
        open_server("tvm-rpc://no-such-host.invalid:9090")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("tvm-rpc://127.0.0.1", "an RPC server is tvm-rpc://host:port/key"),
        ("tvm-rpc:127.0.0.1:1", "an RPC server is tvm-rpc://host:port/key"),
        ("tvm-rpc://127.0.0.1:99999", "an RPC server is tvm-rpc://host:port/key"),
        ("tvm-rpc://127.0.0.1:9190?tracker", "lends servers by their key"),
        ("tvm-rpc://127.0.0.1:9190/k?tracker&wait=x", "wait is a number of seconds"),
        ("tvm-rpc://127.0.0.1:9190/k?a", "unknown option 'a'; tvm-rpc has"),
    ],
)
def test_uris_that_make_no_sense_are_refused(uri: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        open_server(uri)


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "riscv64"])
def test_module_for_servers_needs_no_library(arch: str) -> None:
    machine = {"x86_64": 62, "aarch64": 183, "riscv64": 243}[arch]
    data = compile_shell(arch)
    assert (data[:4], int.from_bytes(data[18:20], "little")) == (b"\x7fELF", machine)
    assert b"libc.so" not in data
    assert len(data) < 8192
