"""The tiny model with its sources emitted and its kernels compiled, ready to link."""

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from haqnas.codegen.emit import emit_sources
from haqnas.codegen.link import Linker, choose_linker, link_executable
from haqnas.codegen.program import Program
from tests.runtime.tiny import KERNELS, tiny_program, tiny_self_test

HOST = f"{platform.machine()}-linux-musl"
RUNTIME_TESTS = Path(__file__).resolve().parents[1] / "runtime"


@dataclass(frozen=True)
class Build:
    """A folder with emitted sources and kernels.o."""

    program: Program
    linker: Linker
    folder: Path

    @property
    def kernels(self) -> Path:
        return self.folder / "kernels.o"

    def executable(self, output: Path | None = None) -> Path:
        output = output or self.folder / "bin" / "tiny"
        return link_executable(
            self.linker,
            self.program.name,
            self.kernels,
            self.folder,
            output,
            is_threaded=self.program.threads > 1,
        )


def build(folder: Path, triple: str = HOST, program: Program | None = None, cc: str | None = None) -> Build:
    program, linker = program or tiny_program(), choose_linker(triple, cc)
    emit_sources(program, folder, tiny_self_test(program))
    target = ["-target", triple] if linker.is_zig else []
    flags = ["-O2", "-fPIC", "-fno-sanitize=undefined"]
    subprocess.run(
        [*linker.command, *target, *flags, "-c", str(KERNELS), "-o", str(folder / "kernels.o")], check=True
    )
    return Build(program, linker, folder)


def run(*command: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, (
        f"exit code {done.returncode}, expected {code}: {done.stdout}{done.stderr}"
    )
    return done
