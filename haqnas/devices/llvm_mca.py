"""llvm-mca: cycles of blocks of instructions on a core whose scheduling LLVM knows; kept in the cache folder."""

import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from haqnas.errors import ConfigurationError, DeviceError

FILE = "cycles.sqlite"
ITERATIONS = 50  # of each block after itself, as in the loop that most executions of blocks are part of
VERSIONS = range(40, 13, -1)  # names of Debian and Ubuntu; older ones lack instructions of our kernels
_GROUP = 64  # blocks of one process
_TIMEOUT_S = 120.0
_BUSY_TIMEOUT_S = 60.0
# What the kernels may use; LLVM ignores none of these names since version 14.
_FEATURES = {"aarch64": "+v8.6a,+crypto", "riscv64": "+m,+a,+f,+d,+c,+v"}

Block: TypeAlias = tuple[str, ...]  # hexadecimal bytes of each instruction


@dataclass(frozen=True, slots=True)
class Mca:
    """An installed llvm-mca with its disassembler, for one core. `version` as it says itself."""

    program: str
    disassembler: str
    version: str
    arch: str
    core: str  # LLVM's name
    scheduling: (
        str  # whose scheduling model LLVM takes for it: older versions lend newer cores that of an A57
    )


def find_mca(arch: str, core: str) -> Mca | None:
    """The newest llvm-mca on this machine that has a scheduling model of `core`, else None."""
    if arch not in _FEATURES:
        return None
    installed = []
    for suffix in ("", *(f"-{version}" for version in VERSIONS)):
        program, disassembler = shutil.which(f"llvm-mca{suffix}"), shutil.which(f"llvm-mc{suffix}")
        if program is not None and disassembler is not None:
            installed.append(Mca(program, disassembler, _version(program), arch, core, ""))
    newest_first = sorted(
        installed, key=lambda mca: [int(n) for n in re.findall(r"\d+", mca.version)], reverse=True
    )
    for mca in newest_first:
        scheduling = _scheduling(mca)
        if scheduling is not None:
            return replace(mca, scheduling=scheduling)
    return None


def count_cycles(blocks: Sequence[Block], mca: Mca, cache_folder: Path) -> dict[Block, float]:
    """Cycles of one execution of each block in a loop of itself; blocks that llvm-mca cannot model are left out.

    Raises ConfigurationError where the cache folder cannot be used, DeviceError where llvm-mca fails by itself.
    """
    keys = {block: _key(block, mca) for block in blocks}
    with _open(cache_folder) as connection:
        known = dict(connection.execute("SELECT key, cycles FROM blocks").fetchall())
    new = [block for block in blocks if keys[block] not in known]
    if new:
        texts = _disassemble({code for block in new for code in block}, mca)
        readable = [block for block in new if all(code in texts for code in block)]
        modelled: dict[Block, float] = {}
        for start in range(0, len(readable), _GROUP):
            modelled |= _model(readable[start : start + _GROUP], texts, mca)
        known |= {keys[block]: modelled.get(block) for block in new}
        with _open(cache_folder) as connection:
            rows = [(keys[block], known[keys[block]]) for block in new]
            connection.executemany("INSERT OR REPLACE INTO blocks VALUES (?, ?)", rows)
    return {block: float(known[key]) for block, key in keys.items() if known[key] is not None}


def _version(program: str) -> str:
    found = re.search(r"version (\d+[.\d]*)", _run([program, "--version"], "").stdout)
    return found[1] if found else "0"


def _scheduling(mca: Mca) -> str | None:
    """The name that the units of the core begin with ("A57UnitB"), None where LLVM has no model of it."""
    completed = _run(_command(mca), "nop\n")
    if completed.returncode != 0 or "not a recognized processor" in completed.stderr:
        return None
    units = json.loads(completed.stdout)["TargetInfo"]["Resources"]
    return str(units[0]).partition("Unit")[0] if "Unit" in units[0] else mca.core


def _command(mca: Mca) -> list[str]:
    options = [f"-mtriple={mca.arch}-linux-gnu", f"-mcpu={mca.core}", f"-mattr={_FEATURES[mca.arch]}"]
    return [mca.program, *options, f"-iterations={ITERATIONS}", "-json"]


def _disassemble(codes: set[str], mca: Mca) -> dict[str, str]:
    """Assembler text by instruction, of those that LLVM knows."""
    listed = sorted(codes)
    lines = [" ".join(f"0x{code[at : at + 2]}" for at in range(0, len(code), 2)) for code in listed]
    command = [mca.disassembler, "-disassemble", f"-triple={mca.arch}", f"-mattr={_FEATURES[mca.arch]}"]
    completed = _run(command, "\n".join(lines) + "\n")
    unknown = {int(number) for number in re.findall(r"^<stdin>:(\d+):", completed.stderr, re.MULTILINE)}
    readable = [code for number, code in enumerate(listed, 1) if number not in unknown]
    texts = [line.strip() for line in completed.stdout.splitlines() if line.startswith("\t")]
    texts = [text for text in texts if text != ".text"]
    if len(texts) != len(readable):
        raise DeviceError(
            f"{mca.disassembler} gave {len(texts)} lines for {len(readable)} instructions; "
            "take llvm-mc and llvm-mca of one version"
        )
    return dict(zip(readable, texts, strict=True))


def _model(blocks: Sequence[Block], texts: Mapping[str, str], mca: Mca) -> dict[Block, float]:
    """One process for all of them; where it refuses, halves, down to the block that it cannot model."""
    regions = []
    for number, block in enumerate(blocks):
        body = "\n".join(texts[code] for code in block)
        regions.append(f"# LLVM-MCA-BEGIN {number}\n{body}\n# LLVM-MCA-END\n")
    completed = _run(_command(mca), "".join(regions))
    if completed.returncode == 0:
        found = json.loads(completed.stdout)["CodeRegions"]
        return {
            blocks[int(region["Name"])]: region["SummaryView"]["TotalCycles"] / ITERATIONS for region in found
        }
    if len(blocks) == 1:
        return {}
    half = len(blocks) // 2
    return _model(blocks[:half], texts, mca) | _model(blocks[half:], texts, mca)


def _run(command: Sequence[str], text: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            list(command), input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(
            f"{command[0]} does not work: {error}; remove it, then costs of classes are taken"
        ) from None


def _key(block: Block, mca: Mca) -> str:
    document = [mca.arch, mca.core, mca.version, ITERATIONS, _FEATURES[mca.arch], block]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


@contextmanager
def _open(folder: Path) -> Iterator[sqlite3.Connection]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(folder / FILE, timeout=_BUSY_TIMEOUT_S)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS blocks (key TEXT PRIMARY KEY, cycles REAL)")
            with connection:  # a transaction
                yield connection
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(
            f"modelled cycles are kept in {folder / FILE}, which cannot be used: {error}; delete it, or name another "
            "folder in XDG_CACHE_HOME"
        ) from None
