"""Rules that all tests share: seeds, emulators, the data folder, slow tests.

A test that needs an emulator is skipped with the reason where it is missing, and fails where the
environment variable CI is set: there a skip would hide that nothing was checked.
"""

import os
import random
import shutil
import signal
import zlib
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("haqnas", deadline=None, print_blob=True, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "haqnas")

# The tests' networks are small, and torch's threads wait for each other badly on a machine that does other work.
torch.set_num_threads(1)

MODULE_FIXTURE = 'scope="module"'  # in the text of a file whose tests share what is made once
# Their fixtures stand elsewhere; those of one folder share them.
ONE_PROCESS = ("tests/cli/test_cli", "tests/cli/test_bench", "tests/devices/test_ssh")

EMULATORS = {"arm": "qemu-aarch64", "riscv": "qemu-riscv64"}


def pytest_configure() -> None:
    """Programs that tests interrupt must notice it: a job in the background of a shell starts with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out the tests marked slow")


def session_seed() -> int:
    return int(os.environ.get("HAQNAS_TEST_SEED", "0"))


def pytest_report_header() -> list[str]:
    emulators = ", ".join(f"{name}: {shutil.which(name) or 'missing'}" for name in EMULATORS.values())
    return [
        f"haqnas: HAQNAS_TEST_SEED={session_seed()}, HAQNAS_DATA={os.environ.get('HAQNAS_DATA', 'unset')}",
        f"emulators: {emulators}",
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--fast"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of a file with fixtures of its own stay in one process: two would each make them, in half a minute.

    By files, because `xdist_group` does nothing with pytest 9.2: pytest-xdist 3.8 writes the group where that no longer
    reads it.
    """
    from xdist.scheduler import LoadScopeScheduling

    class BySharing(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            if path.startswith(ONE_PROCESS):
                return str(Path(path).parent)
            return path if MODULE_FIXTURE in (REPOSITORY / path).read_text() else nodeid

    return BySharing(config, log)


def require_program(program: str, package: str = "qemu-user", places: str | None = None) -> str:
    """Path of a program of a Debian package, or the skip (failure under CI) that the rule above asks for."""
    path = shutil.which(program, path=places)
    if path is None:
        reason = f"{program} is not installed (Debian, Ubuntu: apt install {package})"
        if os.environ.get("CI"):
            pytest.fail(reason + "; with CI set this is a failure", pytrace=False)
        pytest.skip(reason)
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, program in EMULATORS.items():
        if item.get_closest_marker(marker):
            require_program(program)
    if item.get_closest_marker("data") and "HAQNAS_DATA" not in os.environ:
        pytest.skip("HAQNAS_DATA is not set: it names the folder with CIFAR-10 and the published weights")


@pytest.fixture(scope="session")
def qemu_aarch64() -> str:
    """Path of the Arm emulator."""
    return require_program("qemu-aarch64")


@pytest.fixture(scope="session")
def qemu_riscv64() -> str:
    """Path of the RISC-V emulator."""
    return require_program("qemu-riscv64")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder HAQNAS_DATA."""
    if "HAQNAS_DATA" not in os.environ:
        pytest.skip("HAQNAS_DATA is not set: it names the folder with CIFAR-10 and the published weights")
    return Path(os.environ["HAQNAS_DATA"])


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Seed torch, numpy and random from the session's seed and the test's name; shown when a test fails."""
    value = zlib.crc32(f"{session_seed()}:{request.node.nodeid}".encode())
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002  scikit-learn and brevitas draw from the legacy generator
    random.seed(value)
    request.node.add_report_section("setup", "seed", f"{value} (HAQNAS_TEST_SEED={session_seed()})")
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A generator of this test's own."""
    return np.random.default_rng(seed)
