"""The error tree: every mistake that a user can make ends in one of these, with its exit code."""


class HaqnasError(Exception):
    """Base of all expected errors; the message names the rule, the value, the place and the way out.

    `exit_code` is what the command line ends with, `code` a stable name for `--json`.
    """

    exit_code = 1
    code = "ERROR"


class ConfigurationError(HaqnasError):
    """A wrong option, model file, policy, profile or output directory."""

    exit_code = 2
    code = "CONFIGURATION"


class InfeasibleBudgetError(ConfigurationError):
    """No choice of bits meets a budget; the message says what can be reached."""

    code = "INFEASIBLE_BUDGET"


class DeviceError(HaqnasError):
    """The toolchain, the emulator or the device failed; the model may be fine."""

    exit_code = 4
    code = "DEVICE"


class ProgramError(DeviceError):
    """The device works, but the program that it ran crashed or gave something that makes no sense."""

    code = "PROGRAM"


class DeviceSetAsideError(DeviceError):
    """The device failed so often in a row that nothing more is tried on it."""

    code = "DEVICE_SET_ASIDE"


class VerificationError(HaqnasError):
    """An artefact is not what its manifest says, or computes something else than the reference."""

    exit_code = 5
    code = "VERIFICATION"


class UnsupportedModelError(HaqnasError):
    """The model cannot be traced, quantized or lowered; the message names the line of the model."""

    exit_code = 6
    code = "UNSUPPORTED_MODEL"


def error_class(code: str) -> type[HaqnasError]:
    """The class of errors that have the `code`; HaqnasError for one that is not known."""
    waiting: list[type[HaqnasError]] = [HaqnasError]
    while waiting:
        found = waiting.pop()
        if found.code == code:
            return found
        waiting.extend(found.__subclasses__())
    return HaqnasError
