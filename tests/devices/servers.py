"""Servers that the tests start on loopback: OpenSSH with keys of its own, and ways to break it."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import require_program

START_S = 120.0  # of machines that do much else


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"no server on port {port} within {START_S} s")


@contextmanager
def serving(command: Sequence[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        wait_for_port(port, process)
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class SshServer:
    """A running sshd; `config` is an ssh_config that knows its key."""

    folder: Path
    port: int
    user: str
    config: Path
    pid: int

    def uri(self, **options: object) -> str:
        given = {"config": self.config, **options}
        query = "&".join(f"{name}={value}" for name, value in given.items())
        return f"ssh://{self.user}@127.0.0.1:{self.port}?{query}"

    def write_config(self, name: str, known: str) -> Path:
        """An ssh_config whose known hosts are `known`."""
        hosts, config = self.folder / f"{name}-known", self.folder / f"{name}-config"
        hosts.write_text(known)
        config.write_text(
            f"IdentityFile {self.folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {hosts}\n"
            "GlobalKnownHostsFile /dev/null\nUpdateHostKeys no\n"
        )
        return config

    @property
    def known_line(self) -> str:
        key = (self.folder / "host.pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {key[0]} {key[1]}\n"


def require_sshd() -> str:
    require_program("ssh", "openssh-client")
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    return require_program("sshd", "openssh-server", places)


def make_keys(folder: Path) -> None:
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    shutil.copy(folder / "user.pub", folder / "authorized")


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    program = require_sshd()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of root puts its unprivileged part
    make_keys(folder)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "KbdInteractiveAuthentication no\nMaxStartups 100\n"
    )
    command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
    with serving(command, port, folder / "sshd.log") as process:
        server = SshServer(folder, port, getpass.getuser(), folder / "good-config", process.pid)
        server.write_config("good", server.known_line)
        yield server


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server
