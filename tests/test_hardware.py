"""Profiles: the shipped ones are true to LLVM, and a malformed one is told file, line, field and way out."""

import contextlib
import dataclasses
import re
from pathlib import Path

import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm.target.codegen import llvm_get_cpu_features

from haqnas.codegen.emit import runtime_folder
from haqnas.errors import ConfigurationError
from haqnas.hardware import (
    ARCH_CPU_FEATURES,
    HardwareProfile,
    HostCpu,
    find_profile,
    host_profile,
    load_profile,
    shipped_profiles,
)

PROFILES = shipped_profiles()
BY_NAME = {profile.name: profile for profile in PROFILES}
NAMES = [
    "arm-cpu",
    "cortex-a53",
    "cortex-a72",
    "cortex-a76",
    "neoverse-v1",
    "riscv64-v",
    "riscv64",
    "x86-64-v3",
    "x86-amx",
    "x86-avx512-vnni",
]

# LLVM features that let no instruction into a kernel that the base architecture lacks: tuning hints, system
# registers, tracing, virtualisation, cache hints, and what only an intrinsic of that very instruction emits.
HARMLESS = {
    "aarch64": re.compile(
        r"fp-armv8|neon|v8a|v8\.\da|fuse-.*|use-.*|enable-select-opt|predictable-select-expensive|balance-fp-ops"
        r"|addr-lsl-slow-14|alu-lsl-fast|uaops|a53|a72|a76|neoversev1|no-sve-fp-ld1r"
        r"|disable-maximize-scalable-bandwidth|.*vmsa|el3|perfmon|CONTEXTIDREL2|pan|pan-rwv|ras|vh|lor|ccpp|ccdp"
        r"|ccidx|am|dit|mpam|nv|rand|rcpc-immo|lse2|sel2|spe|ssbs|tlb-rmi|tracev8\.4|ete|trbe"
    ),
    "x86_64": re.compile(
        r"64bit.*|cmov|cx8|cx16|fxsr|mmx|nopl|sahf|sse|sse2|sse3|ssse3|sse4\.1|x87|crc32|xsave|evex.*|false-deps-.*"
        r"|fast-.*|slow-.*|allow-light-.*|idivq-to-divl|macrofusion|vzeroupper|prefer-.*|amx-.*-hint"
    ),
    "riscv64": re.compile(
        r"64bit|i|m|a|f|d|c|zicsr|zifencei|zmmul|zaamo|zalrsc|zca|zcd|zve.*|zvl.*|optimized-.*"
    ),
}

GOOD = """schema = 1
name = "board"
description = "a board"
triple = "aarch64-linux-musl"
cpu = "generic"
features = []
isas = ["neon"]
cpu_features = ["asimd"]

[emulator]
program = "qemu-aarch64"
cpu = "cortex-a53"

[machine]
cores = 4
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "board.toml"
    path.write_text(text)
    return path


def test_shipped_profiles_are_those_that_are_promised() -> None:
    assert [profile.name for profile in PROFILES] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_binary_checks_everything_that_llvm_may_emit(name: str) -> None:
    profile = BY_NAME[name]
    target = tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": profile.llvm_triple,
            "mcpu": profile.cpu,
            "mattr": list(profile.features),
        }
    )
    emitted = {str(feature) for feature in llvm_get_cpu_features(target)}
    unchecked = {
        feature
        for feature in emitted - set(profile.cpu_features)
        if not HARMLESS[profile.arch].fullmatch(feature)
    }
    assert unchecked == set()
    named = {"asimd": "neon"}
    assert {named.get(feature, feature) for feature in profile.cpu_features} <= emitted


def test_detectable_features_are_those_of_the_runtime() -> None:
    table = (runtime_folder() / "cpu_features.inc").read_text()
    rows = re.findall(r'^HAQNAS_CPU_FEATURE\(\w+, "([^"]+)", (\w+)\)$', table, re.MULTILINE)
    found = {arch: {name for name, row_arch in rows if row_arch == arch} for arch in ARCH_CPU_FEATURES}
    assert found == {arch: set(names) for arch, names in ARCH_CPU_FEATURES.items()}


def test_profile_is_read_with_all_its_fields(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, GOOD))
    assert (profile.name, profile.arch, profile.isas) == ("board", "aarch64", ("neon",))
    assert profile.emulator is not None
    assert profile.machine.cores == 4


@pytest.mark.parametrize(
    ("good", "bad", "line", "words"),
    [
        ("schema = 1", "schema = 2", 1, "schema = 1"),
        ('cpu = "generic"\n', "cpu = 5\n", 5, "'cpu'"),
        ('cpu = "generic"\n', "", None, "'cpu' is missing"),
        ("isas = ", "isa = ", 7, "did you mean 'isas'"),
        ("cores = 4", "core = 4", 15, "did you mean 'cores'"),
        ("cores = 4", "cores = 0", 15, "above zero"),
        ("cores = 4", 'cores = "4"', 15, "'machine.cores'"),
        ('isas = ["neon"]', 'isas = ["noen"]', 7, "did you mean 'neon'"),
        ('isas = ["neon"]', 'isas = ["neon-dotprod"]', 7, "dotprod"),
        ('cpu_features = ["asimd"]', 'cpu_features = ["asimd", "avx2"]', 8, "'avx2'"),
        ("features = []", 'features = ["dotprod"]', 6, "'+dotprod'"),
        ("aarch64-linux-musl", "mips-linux-musl", 4, "'mips-linux-musl'"),
        ("aarch64-linux-musl", "aarch64-linux-gnu", 4, "'aarch64-linux-gnu'"),
        ('name = "board"', 'name = "My Board"', 2, "'My Board'"),
        ('program = "qemu-aarch64"', "program = true", 11, "'emulator.program'"),
    ],
)
def test_malformed_profile_is_told_where_and_what(
    tmp_path: Path, good: str, bad: str, line: int | None, words: str
) -> None:
    assert good in GOOD
    path = write(tmp_path, GOOD.replace(good, bad, 1))
    with pytest.raises(ConfigurationError) as raised:
        load_profile(path)
    assert words in str(raised.value)
    assert str(raised.value).startswith(f"{path}:{line}: " if line else f"{path}: ")


@pytest.mark.parametrize(
    "text", [b"schema = ", b"\xff\xfe", b"schema = 1\n[machine", b"", b"schema = 1\nname = 1979-05-27"]
)
def test_garbage_is_a_configuration_error(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"board\.toml"):
        load_profile(path)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="utf-8"))
def test_no_changed_character_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, character: str
) -> None:
    path = tmp_path_factory.mktemp("profile") / "board.toml"
    path.write_text(GOOD[:position] + character + GOOD[position + 1 :], encoding="utf-8")
    with contextlib.suppress(ConfigurationError):
        assert isinstance(load_profile(path), HardwareProfile)


def test_missing_profile_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml cannot be read: No such file"):
        find_profile(str(tmp_path / "nowhere.toml"), HostCpu("x86_64", frozenset()))


def test_unknown_target_names_the_closest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'cortex-a53'"):
        find_profile("cortex-a35", HostCpu("x86_64", frozenset()))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("x86")])
def test_host_is_the_best_profile_that_the_machine_has(name: str) -> None:
    host = HostCpu("x86_64", frozenset(BY_NAME[name].cpu_features))
    assert find_profile("host", host).name == name


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ({"asimd"}, "arm-cpu"),
        ({"asimd", "dotprod"}, "cortex-a76"),
        ({"asimd", "dotprod", "i8mm"}, "neoverse-v1"),
    ],
)
def test_host_on_arm(features: set[str], name: str) -> None:
    assert host_profile(PROFILES, HostCpu("aarch64", frozenset(features))).name == name


def test_host_without_a_profile_says_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match=r"hw_profiles/README\.md"):
        host_profile(PROFILES, HostCpu("x86_64", frozenset({"popcnt"})))


def test_every_field_is_documented() -> None:
    readme = (Path(__file__).parents[1] / "hw_profiles" / "README.md").read_text()
    for field in dataclasses.fields(HardwareProfile):
        assert f"`{field.name}`" in readme or f"`[{field.name}]`" in readme
    for names in ARCH_CPU_FEATURES.values():
        assert all(f"`{name}`" in readme for name in names)
