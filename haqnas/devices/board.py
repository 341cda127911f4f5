"""What runs on a board that only has a shell: scripts for sh (busybox's will do), and what they print.

A board may print anything around it (a banner, a profile's greeting), so that which matters stands in a frame: a
first line with a word that nobody else knows, then files, each with its name and size, then a last line.
"""

import math
import re
import shlex
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from haqnas.devices.affinity import choose_cores
from haqnas.devices.device import Completed
from haqnas.devices.fingerprint import (
    PATTERNS,
    UNAME,
    Facts,
    Fingerprint,
    allowed_cores,
    describe_machine,
    max_frequencies_hz,
)
from haqnas.devices.process import MAX_FILE_BYTES, explain_signal, last_words
from haqnas.errors import DeviceError, ProgramError

PLACE = "run"  # where a program runs, in the folder of its run
TASKSET = "taskset"  # the fact that says where it lies
# Ends a process with those that it started, where the board could give it a session of its own.
KILL = "kill -9 -{0} 2>/dev/null || kill -9 {0} 2>/dev/null"
_EXPIRED = "expired"
_ELF_MACHINES = {62: "x86_64", 183: "aarch64", 243: "riscv64"}
_BLOCK_BYTES = 512  # of ulimit -f


@dataclass(frozen=True, slots=True)
class Pinning:
    """Cores that programs on a board are pinned to: `used` of the candidates, None where nothing there can pin."""

    candidates: tuple[int, ...]
    used: tuple[int, ...] | None

    @property
    def prefix(self) -> str:
        """What stands before the program on its command line."""
        return f"taskset {sum(1 << core for core in self.used):x} " if self.used else ""


def plan_pinning(facts: Facts, asked: str | None, threads: int, device: str) -> Pinning:
    """Pin to the last of the fast cores, as interrupts come to the first; raises ConfigurationError."""
    if asked == "any":
        return Pinning((), None)
    if not facts.get(TASKSET, "").strip():
        if asked is not None:
            raise DeviceError(
                f"--device {device}: the board has no taskset, so programs cannot be pinned to the cores {asked}; "
                "leave ?cores out, or install util-linux or busybox with taskset there"
            )
        return Pinning((), None)
    allowed = allowed_cores(facts)
    candidates = choose_cores(allowed, max_frequencies_hz(facts), asked, threads, device)
    return Pinning(candidates, candidates[-threads:] or None)


def describe_board(device: str, facts: Facts, pinning: Pinning) -> Fingerprint:
    """The fingerprint of a board by what its shell printed."""
    return describe_machine(device, facts, pinning.candidates, len(pinning.used) if pinning.used else None)


def check_architecture(executable: Path, facts: Facts, device: str) -> None:
    """Raises DeviceError where the board's kernel says another machine than the head of the ELF file."""
    with executable.open("rb") as stream:
        head = stream.read(20)
    machine = facts.get(UNAME, "").split()[-1:]
    if len(head) < 20 or head[:4] != b"\x7fELF" or not machine:
        return
    built_for = _ELF_MACHINES.get(struct.unpack_from("<H", head, 18)[0])
    if built_for is not None and machine[0] in _ELF_MACHINES.values() and machine[0] != built_for:
        raise DeviceError(
            f"{executable.name} is built for {built_for}, but {device} is {machine[0]}; "
            "choose a target that fits the board (haqnas targets)"
        )


def facts_script(word: str) -> str:
    """Prints the facts of the board in a frame."""
    listed = " ".join(PATTERNS)  # patterns of files: expanded by the board's shell
    return f"""
facts() {{
  printf '\\n@%s@ %s\\n' {word} '{UNAME}'; uname -srm
  printf '\\n@%s@ %s\\n' {word} {TASKSET}; command -v taskset
  for f in {listed}; do
    if [ -r "$f" ]; then printf '\\n@%s@ %s\\n' {word} "$f"; cat "$f" 2>/dev/null; fi
  done
  printf '\\n@%s@ %s\\n' {word} end
}}
facts
"""


def read_facts(printed: bytes, word: str) -> Facts | None:
    """What `facts_script` printed; None where its end is missing."""
    parts = re.split(rf"\n@{word}@ (.*)\n", printed.decode(errors="replace"))
    facts = dict(zip(parts[1::2], parts[2::2], strict=True))
    return facts if "end" in facts else None


def run_script(
    folder: str,
    executable: str,
    arguments: Sequence[str],
    timeout_s: float,
    wanted: Sequence[str],
    pinning: Pinning,
    word: str,
) -> str:
    """Runs `folder`/`executable` in the PLACE of `folder` with a time limit, prints the frame.

    A second process waits for the limit; it is told to go when the program ended, and takes its sleep with it.
    """
    command = shlex.join([f"../{executable}", *arguments])
    files = " ".join(map(shlex.quote, ("../stdout", "../stderr", *wanted)))
    return f"""
cd {shlex.quote(folder)} && mkdir -p {PLACE} && cd {PLACE} || exit 1
ulimit -f {MAX_FILE_BYTES // _BLOCK_BYTES} 2>/dev/null
session=$(command -v setsid)
$session {pinning.prefix}{command} </dev/null >../stdout 2>../stderr &
program=$!
echo $program >../pid || kill -9 $program
( trap 'kill $! 2>/dev/null; exit' TERM
  sleep {max(1, math.ceil(timeout_s))} & wait $!
  : >../{_EXPIRED}; {KILL.format("$program")} ) </dev/null >/dev/null 2>&1 &
timer=$!
wait $program 2>/dev/null
code=$?
rm -f ../pid
kill $timer 2>/dev/null
kill -9 -$program 2>/dev/null
if [ -f ../{_EXPIRED} ]; then code={_EXPIRED}; fi
printf '\\n@%s@ %s\\n' {word} $code
for f in {files}; do
  if [ -f "$f" ]; then s=$(wc -c <"$f"); printf '%d %s\\n' $s "$f"; cat "$f"; fi
done
printf '@%s@ end\\n' {word}
"""


def read_run(printed: bytes, word: str, name: str, timeout_s: float, wall_s: float) -> Completed | None:
    """What `run_script` printed; None where it is not whole.

    Raises ProgramError where the program crashed, DeviceError where it did not end in time or the disk is full.
    """
    start = re.search(rb"\n@" + word.encode() + rb"@ (\w+)\n", printed)
    files = _read_files(printed[start.end() :], word) if start else None
    if start is None or files is None:
        return None
    stderr = files.pop("../stderr", b"").decode(errors="replace")
    if start[1].decode() == _EXPIRED:
        raise DeviceError(f"{name} did not end within {timeout_s:g} s and was stopped{last_words(stderr)}")
    code = int(start[1])
    if code > 128:
        raise ProgramError(f"{name} {explain_signal(code - 128)}{last_words(stderr)}")
    if code in {126, 127}:
        raise DeviceError(f"{name} cannot be started{last_words(stderr)}")
    if code != 0 and "No space left" in stderr:
        raise DeviceError(f"{name} failed for want of disk space there{last_words(stderr)}")
    stdout = files.pop("../stdout", b"").decode(errors="replace")
    return Completed(code, stdout, stderr, wall_s, files)


def _read_files(data: bytes, word: str) -> dict[str, bytes] | None:
    files: dict[str, bytes] = {}
    while True:
        line, newline, data = data.partition(b"\n")
        if line == b"@" + word.encode() + b"@ end":
            return files
        size, _, name = line.partition(b" ")
        if not newline or not size.isdigit() or int(size) > len(data):
            return None
        files[name.decode(errors="replace")] = data[: int(size)]
        data = data[int(size) :]


def place_script(places: Mapping[str, str], folder: str) -> str:
    """Moves files that lie flat in `folder` to their places in its PLACE, and makes the program executable."""
    lines = [f"cd {shlex.quote(folder)} && mkdir -p {PLACE} || exit 1"]
    for flat, place in places.items():
        target = f"{PLACE}/{place}"
        parent = shlex.quote(str(Path(target).parent))
        lines.append(f"mkdir -p {parent} && mv {shlex.quote(flat)} {shlex.quote(target)} || exit 1")
    return "\n".join(lines)
