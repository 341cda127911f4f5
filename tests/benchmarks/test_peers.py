"""Our binaries beside their peers. A benchmark fails where a binary is wrong; figures are compared in the summary."""

from dataclasses import asdict

import pytest

from tests.benchmarks import arm, low_bits, machine, network_model, report, roofline, tuning
from tests.benchmarks.compare import QUICK, THOROUGH, compare
from tests.benchmarks.networks import NETWORKS
from tests.benchmarks.peers import PEERS

pytestmark = [pytest.mark.benchmarks, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_peers(network, threads, is_quick, results, benchmark):
    """pytest-benchmark's own column is the whole comparison; the times of inferences stand in its extra_info."""
    schedule = QUICK if is_quick else THOROUGH
    arguments = (network, machine.cores(threads), schedule, tuple(PEERS))
    result = benchmark.pedantic(compare, args=arguments, rounds=1)
    benchmark.extra_info.update(asdict(result))
    results.comparisons.append(result)
    print("\n" + report.comparison_text(result))


@pytest.mark.arm
@pytest.mark.parametrize("cpu", arm.CPUS)
@pytest.mark.parametrize("network", arm.NETWORKS)
def test_instructions_on_arm(network, cpu, results):
    results.counts.append(arm.count(network, cpu))


@pytest.mark.parametrize("case", low_bits.TIMED, ids=" ".join)
def test_time_of_fewer_bits(case, is_quick, results):
    results.gains.append(low_bits.time_gain(*case, is_quick))


@pytest.mark.arm
@pytest.mark.parametrize("case", low_bits.COUNTED, ids=" ".join)
def test_instructions_of_fewer_bits(case, results):
    results.gains.append(low_bits.count_gain(*case))


@pytest.mark.parametrize("target", [pytest.param("cortex-a72", marks=pytest.mark.arm), "host"])
@pytest.mark.parametrize("network", network_model.EIGHT)
def test_predictions_of_mixed_bits(network, target, is_quick, results):
    found = network_model.predict_network(network, target, is_quick)
    results.predictions.extend(found)
    print("\n" + report.predictions_text(found))


@pytest.mark.parametrize("network", NETWORKS)
def test_tuning(network, is_quick, results):
    results.tunings.append(tuning.time_tuning(network, is_quick))


@pytest.mark.parametrize("network", NETWORKS)
def test_roofline(network, is_quick, results):
    result = roofline.roofline(network, 20 if is_quick else 200, machine.cores(1))
    results.rooflines.append(result)
    print("\n" + report.roofline_text(result))
