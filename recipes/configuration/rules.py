"""Checks of settings, with one form of message for all."""

LARGEST_COUNT = 10**9
"""The largest integer setting. A larger one is a typing mistake, and would overflow products."""
LARGEST_NUMBER = 1e9
"""The largest setting of type float."""


def require_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a ValueError that names key, choices and value unless the value is one of the choices."""
    require(key, value, value in choices, f"one of {', '.join(choices)}")


def require(key: str, value: object, holds: bool, rule: str = "at least 1") -> None:
    """Raise a ValueError that names key, rule and value unless `holds` and a number is within its limit."""
    if not holds:
        raise ValueError(f"{key} must be {rule}, got {value!r}")
    largest = LARGEST_COUNT if isinstance(value, int) else LARGEST_NUMBER
    if key != "train.seed" and isinstance(value, int | float) and value > largest:
        raise ValueError(f"{key} must be at most {largest:,.0f}, got {value!r}")
