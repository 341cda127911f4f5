"""The benchmark's bookkeeping, on a made-up table of all architectures."""

import itertools

import numpy as np
import pytest

from tests.benchmarks.nasbench201 import (
    HEADS,
    OPERATIONS,
    Benchmark,
    Order,
    Run,
    average,
    main,
    ratio,
    search,
)

EVERY = tuple(itertools.product(range(len(OPERATIONS)), repeat=len(HEADS.heads)))


def name_of(action):
    a, b, c, d, e, f = (OPERATIONS[option] for option in action)
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|".encode()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "table.npz"
    rng = np.random.default_rng(0)
    validation = rng.uniform(10, 90, len(EVERY))
    np.savez(
        path,
        arch=np.array([name_of(action) for action in EVERY]),
        cifar10_val=validation,
        cifar10_test=validation + 1,
        ms_board=np.arange(len(EVERY), dtype=np.float64),
    )
    return path


def test_regret_is_what_the_best_found_lacks_of_the_best_allowed(table):
    benchmark = Benchmark.read(table)
    assert all(benchmark.index[action] == place for place, action in enumerate(EVERY))
    run = search(benchmark, Order(table, "random", "board", 30, 0), (1, 20, 60))
    assert run.regrets[0] > run.regrets[1] > run.regrets[2] >= 0
    allowed = benchmark.latencies_ms["board"] <= np.percentile(benchmark.latencies_ms["board"], 30)
    assert run.regrets[0] <= np.ptp(benchmark.test[allowed])


def test_settings_count_alike_whatever_their_number_of_seeds():
    def run(device, seed, regret):
        return Run("marl", device, 30, seed, (regret,), 0.0)

    runs = [run("a", 0, 1.0), run("a", 1, 3.0), run("b", 0, 5.0), run("b", 1, 5.0), run("b", 2, 5.0)]
    (found,) = average(runs, "marl")
    assert found.mean == 3.5
    assert found.error == pytest.approx(0.5)  # of the mean of "a" 1, of "b" 0, halved
    assert ratio(found, found).mean == 1.0
    assert ratio(found, found).error == pytest.approx(2**0.5 * 0.5 / 3.5)


def test_data_is_named(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["nasbench201", "--data", "nowhere.npz"])
    with pytest.raises(SystemExit):
        main()
    assert "nowhere.npz is no file" in capsys.readouterr().err
