"""The command line, through real processes: exit codes, messages, one JSON object, nothing left half done."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.command import Haqnas, Result, in_process, refuse, write
from tests.cli.models import BAD, GOOD, SLOW

# What works


def test_compile_prints_one_object_and_progress_on_stderr(
    compiled: tuple[Path, Path, Result],
) -> None:
    _, directory, result = compiled
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["ok"] is True
    assert document["artifact"] == str(directory)
    assert document["accuracy"]["metric"] == "top-1"
    assert document["latency"]["kind"] == "measured"
    assert re.search(r"haqnas: \[1/9\] [\d.]+ s: trace", result.stderr)
    assert sorted(path.name for path in directory.iterdir()) == [
        "bin",
        "golden",
        "include",
        "lib",
        "manifest.json",
        "policy.json",
        "reference",
    ]


def test_same_command_again_returns_the_same_artefact_at_once(
    haqnas: Haqnas,
    compiled: tuple[Path, Path, Result],
) -> None:
    model, directory, _ = compiled
    before = (directory / "manifest.json").stat().st_mtime_ns
    result = haqnas("compile", model, "-o", directory)
    assert result.returncode == 0, result.stderr
    assert ": link" not in result.stderr
    assert (directory / "manifest.json").stat().st_mtime_ns == before


def test_fresh_compiles_anew_to_the_same_bytes(
    haqnas: Haqnas, compiled: tuple[Path, Path, Result], tmp_path: Path
) -> None:
    model, directory, _ = compiled
    result = haqnas("compile", model, "-o", tmp_path / "again", "--fresh", "--quiet")
    assert (result.returncode, result.stderr) == (0, "")
    for name in ("bin/net", "lib/libnet.a", "include/net.h", "golden/outputs.npz", "reference/graph.json"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes(), name


def test_verify_bench_and_inspect_read_the_artefact(
    haqnas: Haqnas,
    compiled: tuple[Path, Path, Result],
) -> None:
    _, directory, _ = compiled
    verified = json.loads(haqnas("verify", directory, "--json").stdout)
    assert [(check["name"], check["result"]) for check in verified["checks"]] == [
        ("files", "ok"),
        ("reference", "ok"),
        ("layers", "ok"),
        ("self test", "ok"),
        ("binary", "ok"),
    ]
    latency = json.loads(haqnas("bench", directory, "--runs", 5, "--json").stdout)["latency"]
    assert latency["count"] == 5
    layers = {row["name"]: row for row in json.loads(haqnas("inspect", directory, "--json").stdout)["layers"]}
    for name in ("conv", "linear"):
        row = layers[name]
        assert (row["requested"], row["simulated"], row["emitted"]) == ("w8a8",) * 3
        assert row["in_binary"]["weight_bits"] == 8
    assert "w8a8" in haqnas("inspect", directory).stdout


def test_bits_of_a_policy_reach_the_binary(haqnas: Haqnas, tmp_path: Path) -> None:
    policy = write(tmp_path, '{"schema": 1, "default": "w8a8", "layers": {"conv": "w3a8"}}', "policy.json")
    model = write(tmp_path, GOOD)
    result = haqnas("compile", model, "-o", tmp_path / "out", "--bits", policy, "--quiet", "--no-compare")
    assert result.returncode == 0, result.stderr
    layers = json.loads(haqnas("inspect", tmp_path / "out", "--json").stdout)["layers"]
    row = next(row for row in layers if row["name"] == "conv")
    assert (row["requested"], row["simulated"], row["emitted"]) == ("w3a8",) * 3
    assert haqnas("verify", tmp_path / "out").returncode == 0


def test_strict_bits_refuse_what_is_unpacked_in_memory(haqnas: Haqnas, tmp_path: Path) -> None:
    options = ("--bits", "w4a8", "--strict-bits", "--no-compare", "--quiet")
    result = haqnas("compile", write(tmp_path, GOOD), "-o", tmp_path / "out", *options)
    refuse(result, 5, "conv: its weights are stored in 4 bits and unpacked to 8 in memory")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_without_data_agreement_is_scored_and_said(haqnas: Haqnas, tmp_path: Path) -> None:
    result = haqnas("compile", write(tmp_path, GOOD), "-o", tmp_path / "out", "--json", "--quiet")
    accuracy = json.loads(result.stdout)["accuracy"]
    assert (accuracy["metric"], accuracy["data"], accuracy["float_model"]) == ("agreement", "synthetic", None)


@pytest.mark.arm
def test_arm_artefact_is_verified_under_qemu_and_never_timed(haqnas: Haqnas, tmp_path: Path) -> None:
    result = haqnas("compile", write(tmp_path, GOOD), "-o", tmp_path / "out", "--target", "arm-cpu", "--json")
    assert result.returncode == 0, result.stderr
    predicted = json.loads(result.stdout)["latency"]  # by the table of the shipped profile
    assert (predicted["kind"], "median_s" in predicted) == ("predicted", False)
    verified = haqnas("verify", tmp_path / "out")
    assert "bit for bit" in verified.stdout
    latency = json.loads(haqnas("bench", tmp_path / "out", "--json").stdout)["latency"]
    assert latency["kind"] == "emulated"
    assert latency["instructions"] > 0
    assert "median_s" not in latency


def test_targets_and_doctor_list_what_there_is(haqnas: Haqnas) -> None:
    targets = json.loads(haqnas("targets", "--json").stdout)
    assert {"arm-cpu", "cortex-a76", "riscv64", "x86-amx"} <= {row["name"] for row in targets["targets"]}
    assert "qemu-aarch64" in haqnas("targets", "arm-cpu").stdout
    doctor = json.loads(haqnas("doctor", "--json").stdout)
    assert doctor["healthy"] is True
    assert {"torch", "apache-tvm", "brevitas", "ziglang"} <= {row["name"] for row in doctor["findings"]}


def test_doctor_says_what_to_type_where_the_emulator_is_missing() -> None:
    result = in_process("doctor", PATH="/nowhere")
    assert result.returncode == 0
    assert "apt install qemu-user" in result.stdout


# What is refused


@pytest.mark.parametrize("name", BAD)
def test_bad_model_file(haqnas: Haqnas, tmp_path: Path, name: str) -> None:
    text, exit_code, words = BAD[name]
    result = haqnas("compile", write(tmp_path, text), "-o", tmp_path / "out")
    refuse(result, exit_code, words)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_line_of_the_model_is_named(haqnas: Haqnas, tmp_path: Path) -> None:
    text = BAD["dynamic"][0]
    line = text.splitlines().index("        if x.sum() > 0:") + 1
    result = haqnas("compile", write(tmp_path, text), "-o", tmp_path / "out")
    assert f"net.py:{line}" in result.stderr


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (["--target", "arm-cpuu"], 2, "did you mean 'arm-cpu'"),
        (["--target", "nowhere/board.toml"], 2, "board.toml cannot be read"),
        (["--bits", "w9a8"], 2, "weight bits must be 1 to 8"),
        (["--bits", "many"], 2, "w4a8"),
        (["--bits", "nowhere.json"], 2, "nowhere.json cannot be read"),
        (["--format", "exe,dll"], 2, "exe, a, so, tvm"),
        (["--format", ""], 2, "exe, a, so, tvm"),
        (["--device", "gpu:0"], 2, "unknown device"),
        (["--target", "arm-cpu", "--device", "local"], 4, "--device qemu"),
        (["--cc", "no-such-compiler -O2"], 4, "no-such-compiler"),
        (["--cc", "false"], 4, "compiler"),
        (["--seed", "x"], 2, "--seed"),
        (["--nonsense"], 2, "--nonsense"),
    ],
)
def test_bad_option(haqnas: Haqnas, tmp_path: Path, options: list[str], exit_code: int, words: str) -> None:
    result = haqnas("compile", write(tmp_path, GOOD), "-o", tmp_path / "out", *options)
    refuse(result, exit_code, words)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", '"schema": 1'),
        ('{"schema": 1, "layers": {"conv": "w0a8"}}', "layer 'conv'"),
        ('{"schema": 1, "layers": {"conv9": "w8a8"}}', "conv9"),
        ('{"schema": 1, "layer": {}}', "layers"),
    ],
)
def test_corrupt_policy(haqnas: Haqnas, tmp_path: Path, text: str, words: str) -> None:
    policy = write(tmp_path, text, "policy.json")
    result = haqnas("compile", write(tmp_path, GOOD), "-o", tmp_path / "out", "--bits", policy)
    refuse(result, 2, words)


def test_malformed_profile(haqnas: Haqnas, tmp_path: Path) -> None:
    profile = write(tmp_path, 'schema = 1\nname = "board"\nmachine = 5\n', "board.toml")
    refuse(
        haqnas("compile", write(tmp_path, GOOD), "-o", tmp_path / "out", "--target", profile), 2, "board.toml"
    )


def test_missing_model_file_leaves_no_directory(haqnas: Haqnas, tmp_path: Path) -> None:
    refuse(haqnas("compile", tmp_path / "nothing.py", "-o", tmp_path / "out"), 2, "nothing.py")
    assert not (tmp_path / "out").exists()


def test_builder_that_is_not_there(haqnas: Haqnas, tmp_path: Path) -> None:
    refuse(haqnas("compile", f"{write(tmp_path, GOOD)}:small", "-o", tmp_path / "out"), 2, "small")


def test_failure_is_one_json_object_too(haqnas: Haqnas, tmp_path: Path) -> None:
    result = haqnas("compile", tmp_path / "nothing.py", "-o", tmp_path / "out", "--json")
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert (document["code"], document["exit_code"], result.returncode) == ("CONFIGURATION", 2, 2)


def test_output_below_a_file_cannot_be_written(haqnas: Haqnas, tmp_path: Path) -> None:
    model = write(tmp_path, GOOD)
    refuse(haqnas("compile", model, "-o", model / "out"), 2, "not a directory")
    refuse(haqnas("compile", model, "-o", model), 2, "a file is in the way")


def test_output_on_a_read_only_file_system(haqnas: Haqnas, tmp_path: Path) -> None:
    """/proc refuses new directories to everyone, root too; modes would not stop root."""
    refuse(haqnas("compile", write(tmp_path, GOOD), "-o", "/proc/haqnas"), 2, "choose another -o DIR")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(haqnas: Haqnas, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refuse(haqnas("compile", write(tmp_path, GOOD), "-o", tmp_path / "locked" / "out"), 2, "permission")


def test_result_that_cannot_be_printed(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "haqnas.cli.main", "targets"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert result.returncode == 2
    assert b"No space left" in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("limit_kib", [1, 30])
def test_full_disk(tmp_path: Path, limit_kib: int) -> None:
    """A limit on file sizes stands for the full disk: writing fails in the same calls, for root too.

    1 KiB is full at the first stage, 30 KiB when the executable (less than 40) is linked.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kib * 1024, limit_kib * 1024))

    result = subprocess.run(
        [sys.executable, "-m", "haqnas.cli.main", "compile", write(tmp_path, GOOD), "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert result.returncode in {2, 4}, result.stderr
    assert "haqnas: error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_interrupt_prints_the_command_that_goes_on(tmp_path: Path) -> None:
    model = write(tmp_path, SLOW)
    process = subprocess.Popen(
        [sys.executable, "-m", "haqnas.cli.main", "compile", str(model), "-o", "out"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"haqnas compile {model} -o out" in stderr
    assert "Traceback" not in stderr


def test_verify_of_what_is_no_artefact(haqnas: Haqnas, tmp_path: Path) -> None:
    refuse(haqnas("verify", tmp_path / "nothing"), 2, "does not exist")
    refuse(haqnas("bench", tmp_path), 2, "no manifest.json")
    (tmp_path / "manifest.json").write_text("{}")
    refuse(haqnas("inspect", tmp_path), 5, "damaged")


def test_bug_goes_to_a_log_file(tmp_path: Path) -> None:
    """A broken installation stands for a bug: the traceback is in the file that the message names."""
    script = "import haqnas.api as api, haqnas.cli.main as main\n"
    script += "api.compile_file = None\nraise SystemExit(main.run(['compile', 'x.py', '-o', 'out']))"
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (log,) = tmp_path.glob("haqnas-bug-*.log")
    assert str(log) in result.stderr
    assert "NoneType" in log.read_text()
