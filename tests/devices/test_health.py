"""A device that fails again and again is asked no more."""

from haqnas.devices.health import Failure, Health, attempt
from haqnas.errors import DeviceError, ProgramError


class Board:
    """Fails as told, and counts how often it was asked."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes, self.asked = list(outcomes), 0

    def measure(self) -> float:
        self.asked += 1
        error = self.outcomes.pop(0) if self.outcomes else None
        if error:
            raise error
        return 1.0


def run_all(board: Board, count: int, health: Health) -> tuple[Health, list[float | Failure]]:
    results: list[float | Failure] = []
    for _ in range(count):
        health, result = attempt(health, "ssh://pi", board.measure)
        results.append(result)
    return health, results


def test_device_is_set_aside_after_failures_in_a_row_and_all_is_recorded() -> None:
    board = Board(*[DeviceError("no answer")] * 9)
    health, results = run_all(board, 5, Health(limit=3))
    assert board.asked == 3
    assert health.is_set_aside
    assert results[:3] == [Failure("DEVICE", "no answer")] * 3
    aside = Failure(
        "DEVICE_SET_ASIDE", "ssh://pi is set aside after 3 failures in a row; the last: no answer"
    )
    assert results[3:] == [aside] * 2


def test_success_and_crashes_of_programs_are_signs_of_life() -> None:
    gone, crash = DeviceError("no answer"), ProgramError("crashed")
    board = Board(gone, gone, None, gone, gone, crash, gone, gone)
    health, results = run_all(board, 9, Health(limit=3))
    assert board.asked == 9
    assert not health.is_set_aside
    assert results[5] == Failure("PROGRAM", "crashed")
    assert results[8] == 1.0


def test_programs_that_crash_never_set_a_device_aside() -> None:
    board = Board(*[ProgramError("crashed")] * 10)
    health, _ = run_all(board, 10, Health(limit=2))
    assert (board.asked, health.is_set_aside) == (10, False)
