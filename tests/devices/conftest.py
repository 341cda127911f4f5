"""Fixtures of the devices' tests."""

from tests.devices.programs import actor
from tests.devices.servers import board

__all__ = ["actor", "board"]
