"""A PostgreSQL server of Debian's package, in a folder of its own, for as long as a test takes."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import require_program

PLACES = os.pathsep.join([*map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))), os.environ["PATH"]])


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Gives the URL of an empty database. The server listens on a socket in `folder` only, and is not run as root."""
    initdb = require_program("initdb", "postgresql", PLACES)
    pg_ctl = require_program("pg_ctl", "postgresql", PLACES)
    folder.mkdir()
    user = _user()
    if user is not None:
        shutil.chown(folder, user, user)
    data = folder / "data"

    def run(*command: object) -> None:
        subprocess.run(
            list(map(str, command)), user=user, check=True, cwd=folder, capture_output=True, timeout=60
        )

    run(initdb, "-D", data, "--auth=trust", "--username=haqnas", "--no-sync")
    run(pg_ctl, "-D", data, "-w", "-l", folder / "log", "-o", f"-k {folder} -c listen_addresses= -F", "start")
    try:
        yield f"postgresql+psycopg://haqnas@/postgres?host={folder}"
    finally:
        run(pg_ctl, "-D", data, "-m", "immediate", "stop")


def _user() -> str | None:
    """PostgreSQL refuses to be run by root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)
