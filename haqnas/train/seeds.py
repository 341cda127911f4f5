"""Seeds: every random draw of a training follows from its seed and its place, so that a run can go on anywhere."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_at(seed: int, place: int) -> int:
    """A seed of its own, 0 to 2**63 - 1, for each place (step, epoch ...) of a run."""
    mixed = np.random.SeedSequence((seed % 2**64, place % 2**64)).generate_state(1, np.uint64)
    return int(mixed[0] >> np.uint64(1))


@contextlib.contextmanager
def seeded(seed: int, place: int) -> Iterator[None]:
    """Seed the generators that a user's data set may draw from, and put them back as they were."""
    value = seed_at(seed, place)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  what augmentation libraries draw from
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(value)
        random.seed(value)
        np.random.seed(value % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
