"""C literals: strings, floats and integers that read back as the same values."""

import re
from collections.abc import Iterable

import numpy as np

from haqnas.errors import ConfigurationError


def string_literal(text: str) -> str:
    """A C string literal; octal escapes end after three digits, so that no following character joins them."""
    special = {ord('"'): '\\"', ord("\\"): "\\\\", ord("?"): "\\077"}  # ?: else ??/ is a trigraph
    escaped = "".join(
        special.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in text.encode()
    )
    return f'"{escaped}"'


def float_literal(value: float) -> str:
    """A C literal of the float32 nearest to `value`; nine digits are enough to read it back."""
    text = f"{float(np.float32(value)):.9g}"
    if not re.fullmatch(r"-?[0-9.]+(e[-+]?[0-9]+)?", text):
        raise ConfigurationError(f"scales and expected outputs must be finite, but got {value!r}")
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def int32_literal(value: int) -> str:
    """A C literal of an int32_t; ValueError for what is none."""
    if not -(2**31) <= value < 2**31:
        raise ValueError(f"a kernel's integer argument is an int32_t, but got {value}")
    return "(-2147483647 - 1)" if value == -(2**31) else str(value)


def comma_separated(values: Iterable[object]) -> str:
    """The items of an initializer or an argument list."""
    return ", ".join(str(value) for value in values)
