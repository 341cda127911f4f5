"""`make bench`: one store for the results of all benchmarks, printed as tables and written as JSON at the end."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from tests.benchmarks import machine, report
from tests.benchmarks.bars import Results, bars
from tests.benchmarks.compare import BUILD

OUTPUT = BUILD / "results.json"
_RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="benchmarks: fewer and shorter rounds")


@pytest.fixture(scope="session")
def is_quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick", default=False))


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest, is_quick: bool) -> Iterator[Results]:
    """Filled by the benchmarks."""
    store = request.config.stash[_RESULTS] = Results()
    before = machine.describe()
    yield store
    found = {"bars": [{**asdict(bar), "verdict": bar.verdict} for bar in bars(store)]}
    settings = {"quick": is_quick, "machine": before, "load_average_after": machine.load_average()}
    BUILD.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps({**settings, **found, **asdict(store)}, indent=1) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _RESULTS not in config.stash:
        return
    terminalreporter.section("benchmarks against peers")
    terminalreporter.write(report.results_text(config.stash[_RESULTS]))
    terminalreporter.write_line(f"all figures: {OUTPUT}")
