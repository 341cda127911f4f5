"""Modelled cycles: classes of instructions, costs, llvm-mca and its cache, and that counts are exact."""

import multiprocessing
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from haqnas.devices import llvm_mca
from haqnas.devices.cycles import core_for, cycles_by_class, model_cycles
from haqnas.devices.instruction_class import CLASSES, classify
from haqnas.devices.latency import DEFAULT_PLAN, measure_latency
from haqnas.devices.llvm_mca import count_cycles, find_mca
from haqnas.devices.plugins import plugin
from haqnas.devices.qemu import QemuDevice, read_blocks
from haqnas.errors import ConfigurationError, DeviceError
from haqnas.hardware import CoreCosts, shipped_profiles
from tests.conftest import require_program

BY_NAME = {profile.name: profile for profile in shipped_profiles()}
COSTS = CoreCosts("toy-core", 2, 0.5, 1, 8, 1, 1, 2, 1, 2, 0.5, 1, 0.25, 3)
ADD, MUL, LDR, STR, B, NOP = "2000020b", "20fc019b", "200040b9", "200000b9", "feffff17", "1f2003d5"
SDOT = "2094824e"

# As `llvm-mc -show-encoding` writes them.
AARCH64 = {
    "alu": "20100091 2000020b 2000829a",  # add, add, csel
    "mul": "200c029b 207c229b",  # madd, smull
    "div": "2008c21a 200cc29a 20fc226e 2018221e",  # udiv, sdiv, fdiv of vectors and scalars
    "branch": "c0035fd6 60001fd6 610000b5 feffff17 41000054",  # ret, br, cbnz, b, b.ne
    "load": "200040b9 200480b9 20686238 e007c1a8 207c5f88",  # ldr, ldrsw, ldrb, ldp, ldxr
    "store": "208c00f8 20000039 fd7bbfa9 207c0288",  # str, strb, stp, stxr
    "vector_load": "2004c03d 20805ffc 400440ad 00a0df4c 20c8404d",  # ldr q, ldur d, ldp q, ld1, ld1r
    "vector_store": "2070004c 2000803d 20c01fbc e827006d",  # st1, str q, stur s, stp d
    # add, sqxtn, zip1, saddw, uaddl, fadd, scvtf, sshll, movi, fcvtns, smax, addv, umov
    "simd": "2084a24e 2048210e 2038024e 2010620e 2000222e 20d4224e 20d8214e 20a4080f 0004004f 20a8214e "
    "2064224e 20b8b14e 203c050e",
    # smlal, smull2, smlal by element, mla, mul, mla by element, fmul, fmla, sqrdmulh, fmul s, fmadd
    "simd_mul": "2080220e 20c0224e 2020720f 2094224e 209c624e 2000526f 20dc226e 20cc224e 20b4a26e 2008221e 200c021f",
    "simd_dot": "2094824e 20e8826f 209c824e 20ac824e 20a4824e",  # sdot, udot by element, usdot, usmmla, smmla
    "other": "1f2003d5 010000d4",  # nop, svc
}
RISCV64 = {
    # addi, add, addw, lui, auipc, vsetivli; c.addi4spn, c.addi, c.li, c.sub, c.slli, c.mv, c.add
    "alu": "13854506 3385c500 3b85c500 37550000 17550000 577002c4 0808 0505 0945 0d8d 0e05 2e85 2e95",
    "mul": "3385c502 3b85c502",
    "div": "33d5c502 3be5c502 53f5c518 57201186 57101182",  # divu, remw, fdiv, vdiv, vfdiv
    "branch": "e7000500 01c9 01a8 0285 63040500",  # jalr, c.beqz, c.j, c.jr, beqz
    "load": "03a54506 03c51500 07a54500 2f25b600 c841 2265",  # lw, lbu, flw, amoadd, c.lw, c.ldsp
    "store": "23b4a53e a380a500 27a8a518 88e5 2ae4",  # sd, sb, fsw, c.sd, c.sdsp
    "vector_load": "07000502 0750b50a",
    "vector_store": "27600502",
    "simd": "53f5c500 53f505d0 57001102 572411c6 57101102 57b081be",  # fadd, fcvt, vadd, vwadd, vfadd, vnclip
    "simd_mul": "53f5c510 43f5c568 57201196 57a020b6 572411ee 576425f6 57101192",  # fmul ... vwmul, vwmacc, vfmul
    "other": "0f00f00f 73000000",  # fence, ecall
}


@pytest.mark.parametrize(("arch", "table"), [("aarch64", AARCH64), ("riscv64", RISCV64)])
def test_instructions_have_the_class_of_their_encoding(arch: str, table: dict[str, str]) -> None:
    for kind, codes in table.items():
        assert {code: classify(code, arch) for code in codes.split()} == dict.fromkeys(codes.split(), kind)
    assert set(table) == set(CLASSES) - ({"simd_dot"} if arch == "riscv64" else set())


@pytest.mark.parametrize(
    ("block", "cycles"),
    [
        ((ADD, ADD, ADD, ADD), 2),  # two a cycle
        ((MUL, MUL, ADD, ADD), 3),  # integer units: 1 + 1 + 0.5 + 0.5
        ((LDR, ADD, ADD, STR), 3),  # memory: 1 + 2
        ((B, ADD), 1),
        ((SDOT,) * 4 + (ADD,) * 2, 3),  # starting six instructions takes longer than any unit
        ((NOP,), 3),
    ],
)
def test_a_block_takes_as_long_as_its_busiest_units(block: tuple[str, ...], cycles: float) -> None:
    assert cycles_by_class(block, "aarch64", COSTS) == cycles


def test_a_core_that_no_tool_knows_is_modelled_by_costs(tmp_path: Path) -> None:
    found = model_cycles({(ADD, ADD): 10, (MUL,): 5}, "aarch64", COSTS, tmp_path)
    assert (found.count, found.model) == (15, "toy-core by costs of instruction classes")


def test_the_core_is_that_of_the_emulated_cpu_else_that_of_the_profile() -> None:
    for profile, cpu, core in (
        ("arm-cpu", "cortex-a76", "cortex-a76"),
        ("arm-cpu", "cortex-a53", "cortex-a53"),
        ("neoverse-v1", "max", "neoverse-v1"),
        ("riscv64", "rv64", "sifive-u74"),
    ):
        found = core_for(BY_NAME[profile], cpu)
        assert found is not None
        assert found.core == core
    assert core_for(BY_NAME["x86-amx"], "max") is None
    own = replace(BY_NAME["arm-cpu"], cycles=COSTS)
    assert core_for(own, "toy-core") == COSTS


def test_blocks_are_read_as_the_plugin_writes_them() -> None:
    assert read_blocks("12 2000020b feffff17\n3 1f2003d5\nend\n") == {(ADD, B): 12, (NOP,): 3}


# llvm-mca


@pytest.fixture
def mca() -> llvm_mca.Mca:
    require_program("llvm-mca", "llvm")
    found = find_mca("aarch64", "cortex-a72")
    assert found is not None
    return found


def test_llvm_mca_knows_throughput_and_dependencies(mca: llvm_mca.Mca, tmp_path: Path) -> None:
    independent = tuple(f"{register:02x}0002ab"[:8] for register in (3, 4, 5, 6))  # adds x3 .. x6, x0, x2
    chain = ("2100028b",) * 4  # add x1, x1, x2
    cycles = count_cycles([independent, chain], mca, tmp_path)
    assert cycles[chain] == pytest.approx(4, rel=0.1)  # one after the other
    assert cycles[independent] < 3


def test_what_llvm_mca_cannot_read_is_left_to_costs(mca: llvm_mca.Mca, tmp_path: Path) -> None:
    unknown = "ffffffff"
    assert count_cycles([(ADD,), (unknown, ADD)], mca, tmp_path).keys() == {(ADD,)}
    costs = replace(COSTS, core="cortex-a72")
    found = model_cycles({(ADD,): 100, (unknown,): 100}, "aarch64", costs, tmp_path)
    assert "by llvm-mca" in found.model
    assert "% by costs of instruction classes" in found.model


def test_a_core_without_a_model_is_not_asked() -> None:
    require_program("llvm-mca", "llvm")
    assert find_mca("aarch64", "cortex-a1") is None
    assert find_mca("x86_64", "znver3") is None  # x86-64 is timed


def test_cycles_are_kept(mca: llvm_mca.Mca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [(ADD, B), ("ffffffff",)]
    first = count_cycles(blocks, mca, tmp_path)
    monkeypatch.setattr(llvm_mca, "_run", lambda *_: pytest.fail("asked again"))
    assert count_cycles(blocks, mca, tmp_path) == first
    other_core = replace(mca, core="cortex-a53")
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        count_cycles(blocks, other_core, tmp_path)


def test_a_cache_that_is_no_database_is_told(mca: llvm_mca.Mca, tmp_path: Path) -> None:
    (tmp_path / llvm_mca.FILE).write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(ConfigurationError, match="delete it"):
        count_cycles([(ADD,)], mca, tmp_path)


# The plugin

COUNTED = r"""
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int count, char** words) {
  volatile int sum = 0;
  for (int run = 0; run < atoi(words[2]); ++run) {
    getppid();
    for (int i = 0; i < (run == 0 ? 5000 : 1000); ++i) sum += i;
  }
  getppid();
  return count == 3 ? 0 : 7;
}
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counted")
    (folder / "program.c").write_text(COUNTED)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-O2", "-s", "-static"]
    subprocess.run([*command, "program.c", "-o", "program"], cwd=folder, check=True, capture_output=True)
    return folder / "program"


@pytest.mark.arm
def test_counts_and_cycles_are_exact_and_of_the_second_run(counted: Path) -> None:
    device = QemuDevice("qemu-aarch64", "cortex-a72", BY_NAME["cortex-a72"].cycles)
    counts = [device.count_blocks(counted, 10.0) for _ in range(4)]
    assert counts[1:] == counts[:1] * 3
    (loop, times), *_ = sorted(counts[0].items(), key=lambda item: -item[1])
    assert times == pytest.approx(1000, abs=2)
    assert 3 <= len(loop) <= 8


@pytest.mark.arm
def test_emulated_latency_has_instructions_and_cycles_and_no_time(counted: Path) -> None:
    costs = replace(COSTS, core="toy-core")
    latency = measure_latency(counted, QemuDevice("qemu-aarch64", "cortex-a53", costs), DEFAULT_PLAN, 10.0)
    assert (latency.kind, latency.median_s, latency.stopped) == ("emulated", None, None)
    assert latency.instructions is not None
    assert 3000 < latency.instructions < 10000
    assert latency.cycles is not None
    assert 1000 < latency.cycles < 10000
    assert latency.cycle_model == "toy-core by costs of instruction classes"


@pytest.mark.arm
def test_a_program_without_marks_is_a_device_error(counted: Path) -> None:
    with pytest.raises(DeviceError, match=r"counted no instructions .*exit code 7"):
        QemuDevice("qemu-aarch64", "cortex-a72").count_blocks(counted, 10.0, threads=2)


def test_plugin_is_compiled_once_and_again_where_its_source_changes(tmp_path: Path) -> None:
    source = tmp_path / "plugin.c"
    source.write_text("int one;")
    first = plugin(source, tmp_path / "cache")
    changed_ns = first.stat().st_mtime_ns
    assert plugin(source, tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == changed_ns
    source.write_text("int two;")
    assert plugin(source, tmp_path / "cache") != first
    assert sorted((tmp_path / "cache" / "plugins").iterdir()) == sorted(
        {first, plugin(source, tmp_path / "cache")}
    )


def test_several_processes_compile_one_plugin(tmp_path: Path) -> None:
    source = tmp_path / "plugin.c"
    source.write_text("int one;")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        made = pool.starmap(plugin, [(source, tmp_path / "cache")] * 3)
    assert len(set(made)) == 1
    assert list((tmp_path / "cache" / "plugins").iterdir()) == [made[0]]


def test_plugin_that_does_not_compile_is_a_device_error(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("not C")
    with pytest.raises(DeviceError, match="plugin does not compile"):
        plugin(tmp_path / "bad.c", tmp_path)


def test_cache_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(stat.S_IRUSR)
    with pytest.raises(ConfigurationError, match="XDG_CACHE_HOME"):
        plugin(Path(llvm_mca.__file__).with_name("count_marks.c"), tmp_path / "file")
