"""Entry point of `haqnas`: runs a command and turns every way that it can end into an exit code and a message."""

import json
import os
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import click

from haqnas.cli import artefact, check, profile, report, targets  # noqa: F401  they add their commands to the group
from haqnas.cli.commands import group
from haqnas.errors import HaqnasError

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_OUT_OF_MEMORY = 4
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line of this process and end it."""
    # torch's threads spin while they wait for each other; on a machine with other work that made calibration
    # ten times slower (2 cores, load 6: 44 s with spinning, 5 s without). Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; gives its exit code. Nothing escapes but the end of the process."""
    is_json = "--json" in arguments
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries warn of is no message of ours; -W shows it
    try:
        result = group.main(list(arguments), prog_name="haqnas", standalone_mode=False)
        sys.stdout.flush()
    except HaqnasError as error:
        return _fail(is_json, error.code, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        command = shlex.join(["haqnas", *arguments])
        return _fail(is_json, "INTERRUPTED", f"interrupted; to go on, type: {command}", EXIT_INTERRUPTED)
    except click.ClickException as error:
        return _fail(is_json, "USAGE", f"{error.format_message()}{_usage_hint(error)}", EXIT_USAGE)
    except BrokenPipeError:
        _close_stdout()  # the reader, such as `head`, has seen enough
        return 0
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _close_stdout()
        return _fail(is_json, "FILE", f"{place}{error.strerror or error}", EXIT_USAGE)
    except MemoryError:
        return _fail(is_json, "MEMORY", "out of memory; close other programs", EXIT_OUT_OF_MEMORY)
    except Exception as error:
        return _fail(is_json, "BUG", _log_bug(arguments, error), EXIT_BUG)
    return result if isinstance(result, int) else 0


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see `{context.command_path} --help`)" if context is not None else ""


def _fail(is_json: bool, code: str, message: str, exit_code: int) -> int:
    """Tell the failure: one JSON object on stdout, or a line on stderr."""
    if is_json and not sys.stdout.closed:
        failure = {"ok": False, "code": code, "message": message, "exit_code": exit_code}
        try:
            print(json.dumps(failure), flush=True)
        except OSError:
            _close_stdout()
    print(f"haqnas: error: {message}", file=sys.stderr)
    return exit_code


def _close_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _log_bug(arguments: Sequence[str], error: Exception) -> str:
    """Write the traceback to a file; gives the message that names it."""
    text = f"command: {shlex.join(['haqnas', *arguments])}\npython: {sys.version}\n\n" + "".join(
        traceback.format_exception(error)
    )
    summary = f"this is a bug in haqnas ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="haqnas-bug-", suffix=".log", delete=False) as log:
            log.write(text)
    except OSError:
        return f"{summary}; no log file could be written"
    return f"{summary}; please report it with the model file, if you can share it, and {Path(log.name)}"


if __name__ == "__main__":
    main()
