"""A device that fails again and again is set aside: what was still to be measured ends at once, with the reason."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from haqnas.errors import DeviceError, DeviceSetAsideError, ProgramError, VerificationError

Result = TypeVar("Result")

DEFAULT_LIMIT = 3


@dataclass(frozen=True, slots=True)
class Health:
    """Failures of a device in a row. A program that crashes or computes wrongly is a sign of life."""

    limit: int = DEFAULT_LIMIT
    failures: int = 0
    reason: str = ""  # of the last failure

    @property
    def is_set_aside(self) -> bool:
        """Whether nothing more is tried."""
        return self.failures >= self.limit

    def after(self, error: DeviceError | VerificationError | None) -> "Health":
        """The state after a measurement that ended so."""
        if isinstance(error, DeviceSetAsideError):
            return self
        if error is None or isinstance(error, (ProgramError, VerificationError)):
            return replace(self, failures=0, reason="")
        return replace(self, failures=self.failures + 1, reason=str(error))


@dataclass(frozen=True, slots=True)
class Failure:
    """A measurement that failed, as data: `code` is that of the error, such as DEVICE or DEVICE_SET_ASIDE."""

    code: str
    message: str


def attempt(health: Health, device: str, measure: Callable[[], Result]) -> tuple[Health, Result | Failure]:
    """The result of `measure` or its failure, and the state after it; a device set aside is not asked again."""
    try:
        if health.is_set_aside:
            raise DeviceSetAsideError(
                f"{device} is set aside after {health.failures} failures in a row; the last: {health.reason}"
            )
        result = measure()
    except (DeviceError, VerificationError) as error:
        return health.after(error), Failure(error.code, str(error))
    return health.after(None), result
