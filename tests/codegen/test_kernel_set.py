"""Kernel sets: joined programs compute what each computes alone, and signatures tell calls apart."""

import dataclasses
import json
import subprocess

import numpy as np
import pytest

from haqnas.codegen.emit_set import emit_kernel_set, segments_of
from haqnas.codegen.kernel_set import join
from haqnas.codegen.link import choose_linker, link_kernel_set
from haqnas.codegen.lower import lower
from haqnas.codegen.objects import build
from haqnas.codegen.selftest import make_self_test, self_test_inputs
from haqnas.devices.kernel_times import kernels_of
from haqnas.devices.local import read_host_cpu
from haqnas.hardware import find_profile
from tests.measured import canonical_network, subject, uniform_programs


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """The executable of ds_cnn and resnet8-like programs at several bits, and the joined program."""
    profile = find_profile("host", read_host_cpu())
    uniforms = [
        uniform
        for network in ("ds_cnn", "autoencoder")
        for uniform in uniform_programs(*canonical_network(network), profile, "w8a8", "w3a4")
    ]
    program = join([uniform.program for uniform in uniforms])
    inputs = iter(self_test_inputs(program))
    expected = [
        output
        for uniform in uniforms
        for output in subject(uniform).expected([next(inputs) for _ in uniform.program.inputs])
    ]
    folder = tmp_path_factory.mktemp("set")
    kernels = build(program.functions, profile, folder / "kernels.o")
    emit_kernel_set(program, folder, make_self_test(expected, is_exact=True))
    executable = link_kernel_set(choose_linker(profile.triple), program.name, kernels, folder, folder / "set")
    return uniforms, program, executable


def call(executable, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([executable, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_joined_programs_compute_what_each_computes_alone(joined):
    done = call(joined[2], "--golden")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_segment_has_the_calls_of_its_program(joined):
    uniforms, program, _ = joined
    segments = segments_of(program)
    for uniform, segment in zip(uniforms, segments, strict=True):
        named = [(call.symbol.removeprefix("net_"), call.signature) for call in segment]
        assert named == list(kernels_of(uniform.program))
    assert len(program.functions) < sum(len(uniform.program.functions) for uniform in uniforms)


def test_every_call_of_every_segment_is_timed(joined):
    uniforms, _, executable = joined
    done = call(executable, "--times", "7", "1000")
    assert done.returncode == 0, done.stderr
    segments = json.loads(done.stdout)["segments"]
    assert [segment["runs"] for segment in segments] == [7] * len(uniforms)
    for uniform, segment in zip(uniforms, segments, strict=True):
        assert len(segment["calls_ps"]) == len(uniform.program.calls)
        assert all(0 <= low <= high for low, _, high in segment["calls_ps"])
        # Each call was waited for: together they take about what the whole takes.
        assert sum(low for low, _, _ in segment["calls_ps"]) > 0.5 * segment["total_ps"][0]


def test_a_time_limit_leaves_a_few_runs(joined):
    segments = json.loads(call(joined[2], "--times", "100000", "1").stdout)["segments"]
    assert all(5 <= segment["runs"] < 100000 for segment in segments)


@pytest.mark.parametrize(
    "arguments", [(), ("--times",), ("--times", "0", "1"), ("--times", "x", "1"), ("--marks", "1"), ("-h",)]
)
def test_wrong_arguments_are_refused(joined, arguments):
    done = call(joined[2], *arguments)
    assert done.returncode == 2
    assert "--times RUNS MILLISECONDS" in done.stderr


def test_programs_for_threads_are_not_joined(joined):
    threaded = dataclasses.replace(joined[0][0].program, threads=2)
    with pytest.raises(ValueError, match="one thread"):
        join([threaded])


def test_programs_of_other_names_are_not_joined(joined):
    program = joined[0][0].program
    with pytest.raises(ValueError, match="one name"):
        join([program, dataclasses.replace(program, name="other")])


def test_signatures_depend_on_shapes_and_not_on_values():
    profile = find_profile("arm-cpu", read_host_cpu())
    canonical, inputs = canonical_network("ds_cnn")
    (one,) = uniform_programs(canonical, inputs, profile, "w8a8")
    (other,) = uniform_programs(canonical, [inputs[0] * 3 + 1], profile, "w8a8")
    assert one.program.constants != other.program.constants
    assert [signature for _, signature in kernels_of(one.program)] == [
        signature for _, signature in kernels_of(other.program)
    ]
    assert all(call.signature or "island" in call.symbol for call in one.program.calls)


@pytest.mark.parametrize("network", ["resnet20", "mobilenet_v2", "dcgan_generator", "small_vit"])
def test_equal_kernels_have_equal_parameters(network):
    """Two calls of one name differ in nothing but addresses, and in numbers that no kernel branches on."""
    profile = find_profile("arm-cpu", read_host_cpu())
    canonical, inputs = canonical_network(network)
    (uniform,) = uniform_programs(canonical, inputs, profile, "w8a8")
    again = lower(uniform.graph, profile, "other")
    assert kernels_of(again) == kernels_of(uniform.program)
    arguments = {}
    for kernel, made in zip(kernels_of(uniform.program), uniform.program.calls, strict=True):
        shape = tuple(type(argument).__name__ for argument in made.arguments)
        assert arguments.setdefault(kernel, shape) == shape
    assert len(arguments) > 3


def test_numbers_of_a_signature_are_short():
    from haqnas.codegen.signature import of_numbers

    long = of_numbers(a=1, b=(2, 3), c=tuple(range(100)))
    assert long.startswith("a=1 b=2,3 c=100#")
    assert long != of_numbers(a=1, b=(2, 3), c=tuple(np.arange(100)[::-1].tolist()))
