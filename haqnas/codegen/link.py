"""Link emitted sources and compiled kernels into an executable, a library, and a module for TVM."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from haqnas.codegen.emit import runtime_folder
from haqnas.errors import DeviceError

TIMEOUT_S = 600.0  # zig's first build of a libc takes 40 s on two idle cores, several times that on busy ones
_GLIBC = "2.28"  # what the .so needs at least; the age of TVM's own wheels
_STDERR_LINES = 15

# Contraction stays off everywhere: a fused multiply-add rounds once where the reference rounds twice.
_COMPILE = (
    "-std=c11",
    "-O2",
    "-g0",
    "-Wall",
    "-ffp-contract=off",
    "-fno-sanitize=undefined",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fdata-sections",
)
_PROGRAM = ("main.c", "text.c", "buffers.c", "golden.c", "bench.c", "files.c")
_RUNTIME_FUNCTIONS = ("haqnas_cpu_missing", "haqnas_cpu_count", "haqnas_cpu_feature_name", "haqnas_team_run")
# Of programs for several threads: what they have that others lack.
_THREADED = ("-DHAQNAS_THREADS", "-pthread")
_LINK = ("-s", "-Wl,--gc-sections", "-Wl,-z,noexecstack", "-lm")


@dataclass(frozen=True, slots=True)
class Linker:
    """A C compiler that links for one machine. `triple` is zig's, such as aarch64-linux-musl."""

    command: tuple[str, ...]
    triple: str
    is_zig: bool


def choose_linker(triple: str, cc: str | None = None) -> Linker:
    """The linker for `triple`: the user's command line `cc`, or zig's C compiler.

    Raises DeviceError where it is not installed.
    """
    if cc is None:
        return Linker(_zig("cc"), triple, is_zig=True)
    try:
        command = tuple(shlex.split(cc))
    except ValueError as error:
        raise DeviceError(f"cannot read the compiler command {cc!r}: {error}") from None
    if not command or shutil.which(command[0]) is None:
        raise DeviceError(
            f"no C compiler: {cc!r} is not an executable command; install it, or leave --cc out to use "
            "the one of ziglang"
        )
    return Linker(command, triple, is_zig=False)


def _zig(tool: str) -> tuple[str, ...]:
    if importlib.util.find_spec("ziglang") is None:
        raise DeviceError(
            "no C compiler: the package ziglang is not installed; type `pip install ziglang`, or name a "
            "compiler for the target with --cc"
        )
    return (sys.executable, "-m", "ziglang", tool)


def cache_home() -> Path:
    """Where programs keep what can be made again: `$XDG_CACHE_HOME`, or `.cache` in `$HOME`, or in / without one.

    As zig finds it. Not `Path.home()`, which raises for a user whom the machine does not know, as in containers.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path(os.environ.get("HOME") or "/") / ".cache"


# Notice of zig's first use ----------------------------------------------------------------------------------


def is_first_use(linker: Linker) -> bool:
    """Whether zig will first build its libc for this triple (about 40 s, once), so that progress can say so."""
    return linker.is_zig and not _mark(linker).exists()


def _mark(linker: Linker) -> Path:
    """A file in zig's own cache, so that emptying the cache empties this knowledge too."""
    cache = os.environ.get("ZIG_GLOBAL_CACHE_DIR") or cache_home() / "zig"
    return Path(cache) / f"haqnas-libc-{linker.triple}"


def _remember_use(linker: Linker) -> None:
    """Only a notice hangs on the mark, so a cache that cannot be written is no failure here."""
    if linker.is_zig:
        try:
            _mark(linker).touch()
        except OSError:
            return


# Products ---------------------------------------------------------------------------------------------------


def link_executable(
    linker: Linker,
    name: str,
    kernels: Path,
    sources: Path,
    output: Path,
    timeout_s: float = TIMEOUT_S,
    *,
    is_marked: bool = False,
    is_threaded: bool = False,
) -> Path:
    """Link the static executable of model `name`, whose emitted sources lie in the folder `sources`.

    A marked one can time each kernel call (`--layers N`). `is_threaded`: the program has parts for several threads.

    Returns `output`, which appears whole or not at all. Raises DeviceError where the compiler fails.
    """
    inputs = (*_library_sources(name, is_threaded), f"{name}_model.c", *_runtime(*_PROGRAM))
    marks = (*(("-DHAQNAS_MARKED",) if is_marked else ()), *(_THREADED if is_threaded else ()))
    with _replacing(output) as made:
        _compile(
            linker,
            [
                *_COMPILE,
                *marks,
                "-static",
                f"-DHAQNAS_MODEL={name}_model",
                *inputs,
                str(kernels.resolve()),
                *_LINK,
            ],
            sources,
            made,
            timeout_s,
        )
        made.chmod(0o755)
    _remember_use(linker)
    return output


def link_kernel_set(
    linker: Linker, name: str, kernels: Path, sources: Path, output: Path, timeout_s: float = TIMEOUT_S
) -> Path:
    """Link the static executable that times the calls of a kernel set; as `link_executable`."""
    runtime = _runtime("kernel_set.c", "text.c", "buffers.c", "golden.c")
    inputs = (*_library_sources(name, False), f"{name}_model.c", f"{name}_set.c", *runtime)
    described = (f"-DHAQNAS_MODEL={name}_model", f"-DHAQNAS_SET={name}_set")
    with _replacing(output) as made:
        _compile(
            linker,
            [*_COMPILE, *described, "-static", *inputs, str(kernels.resolve()), *_LINK],
            sources,
            made,
            timeout_s,
        )
        made.chmod(0o755)
    _remember_use(linker)
    return output


def link_archive(
    linker: Linker,
    name: str,
    kernels: Path,
    sources: Path,
    output: Path,
    timeout_s: float = TIMEOUT_S,
    *,
    is_threaded: bool = False,
) -> Path:
    """Make the static library of model `name`; as `link_executable`."""
    with tempfile.TemporaryDirectory() as folder, _replacing(output) as made:
        # numbered, since a model may be named as a file of the runtime is
        sources_of_objects = _library_sources(name, is_threaded)
        threads = _THREADED if is_threaded else ()
        objects = [
            Path(folder) / f"{index}_{Path(source).stem}.o" for index, source in enumerate(sources_of_objects)
        ]
        for source, built in zip(sources_of_objects, objects, strict=True):
            _compile(linker, [*_COMPILE, *threads, "-fPIC", "-c", source], sources, built, timeout_s)
        # D: no dates and owners, so that the same input gives the same bytes
        members = [str(path) for path in (*objects, kernels.resolve())]
        _execute([*_zig("ar"), "rcsD", str(made), *members], sources, timeout_s)
    return output


def link_tvm_library(
    linker: Linker,
    name: str,
    kernels: Path,
    sources: Path,
    output: Path,
    timeout_s: float = TIMEOUT_S,
    *,
    is_threaded: bool = False,
) -> Path:
    """Make the shared library that TVM loads as a module with the function `run`; as `link_executable`.

    It uses the C library of the process that loads it, so zig links it for glibc.
    """
    shared = _for_glibc(linker)
    inputs = (*_library_sources(name, is_threaded), f"{name}_model.c", *_runtime("tvm_entry.c"))
    functions = (
        "__tvm_ffi_run",
        f"{name}_run",
        *([f"{name}_run_threads"] if is_threaded else []),
        f"{name}_error_message",
    )
    with tempfile.TemporaryDirectory() as folder, _replacing(output) as made:
        exports = Path(folder) / "exports.map"
        exports.write_text(f"{{ global: {'; '.join(functions)}; local: *; }};\n")
        _compile(
            shared,
            [
                *_COMPILE,
                *(_THREADED if is_threaded else ()),
                "-fPIC",
                "-shared",
                f"-Wl,--version-script={exports}",
                f"-DHAQNAS_MODEL={name}_model",
                *inputs,
                str(kernels.resolve()),
                *_LINK,
            ],
            sources,
            made,
            timeout_s,
        )
    _remember_use(shared)
    return output


def link_tvm_object(
    linker: Linker,
    name: str,
    kernels: Path,
    sources: Path,
    output: Path,
    timeout_s: float = TIMEOUT_S,
    *,
    is_threaded: bool = False,
) -> Path:
    """Make one object file with the packed function `<name>_run`, for TVM to link into a module; as `link_executable`.

    The runtime's functions get the model's name before them, so that objects of several models go into one module.
    """
    shared = _for_glibc(linker)
    inputs = (*_library_sources(name, is_threaded), f"{name}_model.c", *_runtime("tvm_entry.c"))
    renamed = [f"-D{function}={name}_{function}" for function in _RUNTIME_FUNCTIONS]
    options = [*_COMPILE, *(_THREADED if is_threaded else ()), *renamed]
    entry = [f"-DHAQNAS_MODEL={name}_model", f"-D__tvm_ffi_run=__tvm_ffi_{name}_run"]
    with _replacing(output) as made:
        command = [*options, *entry, "-fPIC", "-r", *inputs, str(kernels.resolve())]
        _compile(shared, command, sources, made, timeout_s)
    _remember_use(shared)
    return output


def _for_glibc(linker: Linker) -> Linker:
    """The same for what is loaded by a process that has a C library."""
    triple = linker.triple.replace("-musl", f"-gnu.{_GLIBC}")
    command = tuple(word for word in linker.command if word != "-static")
    return Linker(command, triple, linker.is_zig)


def _library_sources(name: str, is_threaded: bool) -> tuple[str, ...]:
    """Emitted files by name (the compiler runs in their folder), runtime files by path."""
    runtime = ("cpu.c", "team.c") if is_threaded else ("cpu.c",)
    return (f"{name}.c", f"{name}_constants.S", *_runtime(*runtime))


def _runtime(*files: str) -> tuple[str, ...]:
    return tuple(str(runtime_folder() / file) for file in files)


# Running the compiler ---------------------------------------------------------------------------------------


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A temporary path beside `output`, which takes its place when the block ends well."""
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def _compile(linker: Linker, arguments: Sequence[str], folder: Path, output: Path, timeout_s: float) -> None:
    target = ["-target", linker.triple] if linker.is_zig else []
    # -iquote: the header of a model named `math` must not hide <math.h>
    includes = ["-iquote", ".", "-iquote", str(runtime_folder())]
    _execute([*linker.command, *target, *includes, *arguments, "-o", str(output)], folder, timeout_s)


def _execute(command: Sequence[str], folder: Path, timeout_s: float) -> None:
    """Run a compiler in `folder`; DeviceError with the end of what it said."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"the C compiler did not end within {timeout_s:.0f} s: {shlex.join(command)}; the machine may be "
            "overloaded: try again"
        ) from None
    except OSError as error:
        raise DeviceError(f"the C compiler does not start: {error}; name another with --cc") from None
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_STDERR_LINES:])
        raise DeviceError(
            f"the C compiler failed with exit code {done.returncode}: {shlex.join(command)}\n{said}"
        )
