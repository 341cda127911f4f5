"""One session with a TVM RPC server, as a program of its own: `python -m haqnas.devices.tvm_client JOB.json`.

TVM's client waits for ever on a server that does not answer, and ends the process on an answer that it does not
understand; as a child process it can do both without harm. The only module here that imports TVM.
"""

import ipaddress
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FAILED = 3  # the exit code for what the server or the way to it did; stderr says what
SHELL = "haqnas-shell.so"
SCRIPT = "haqnas-script"
PRINTED = "haqnas-printed"
FOLDER = "@FOLDER@"  # in a script: the folder of the session on the server


@dataclass(frozen=True, slots=True)
class Job:
    """Run a script on a server, with files beside it; what it prints is written to `printed`."""

    host: str
    port: int
    key: str
    is_tracker: bool
    allows_remote: bool
    timeout_s: float  # of the session, enforced by the server
    files: Mapping[str, str]  # name on the server: path here
    script: str
    shell: str  # path of the module that runs it
    printed: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def is_loopback(host: str, port: int) -> bool:
    """Whether all addresses of a host are this machine's own; raises OSError where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return all(ipaddress.ip_address(str(info[4][0]).partition("%")[0]).is_loopback for info in found)


def main(path: str) -> int:
    """Do the job; gives the exit code."""
    job = Job(**json.loads(Path(path).read_text()))
    try:
        _serve(job)
    except Exception as error:  # TVM raises RuntimeError, its own classes, and whatever the server raised
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        print(" | ".join(lines[-3:])[-600:], file=sys.stderr)  # noqa: T201  this is a program
        return FAILED
    return 0


def _load_light_tvm() -> None:
    """Importing TVM takes seconds for what this process does not need: the compiler, and torch."""
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"
    sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it fails, and TVM goes on without


def _serve(job: Job) -> None:
    _load_light_tvm()
    from tvm import rpc

    host, port, key = _ask_tracker(job) if job.is_tracker else (job.host, job.port, job.key)
    session = rpc.connect(host, port, key, session_timeout=job.timeout_s)
    folder = str(Path(session.get_function("tvm.rpc.server.workpath")(SCRIPT)).parent)
    for name, source in job.files.items():
        session.upload(source, name)
    session.upload(bytearray(job.script.replace(FOLDER, folder).encode()), SCRIPT)
    session.upload(job.shell, SHELL)
    run: Any = session.load_module(SHELL)["system"]
    run(f"cd '{folder}' && sh ./{SCRIPT} >{PRINTED} 2>/dev/null </dev/null")
    Path(job.printed).write_bytes(bytes(session.download(PRINTED)))


def _ask_tracker(job: Job) -> tuple[str, int, str]:
    """Where a free server is; waits for one. The address is the tracker's word, so it is checked like the user's."""
    from tvm.rpc import base, connect_tracker

    tracker = connect_tracker(job.host, job.port)
    known = {str(server["key"]).partition(":")[2] for server in tracker.summary()["server_info"]}
    if job.key not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise RuntimeError(
            f"the tracker knows no server of the key {job.key!r}; those that it knows: {listed}"
        )
    base.sendjson(tracker._sock, [base.TrackerCode.REQUEST, job.key, "haqnas", 1])
    code, found = base.recvjson(tracker._sock)
    if code != base.TrackerCode.SUCCESS:
        raise RuntimeError(f"the tracker refused: {found}")
    host, port, key = found
    if not job.allows_remote and not is_loopback(host, port):
        raise RuntimeError(
            f"the tracker names the server {host}:{port}, which is not on this machine; ?insecure allows it"
        )
    return host, int(port), key


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
