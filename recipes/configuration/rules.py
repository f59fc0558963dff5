"""What every setting must keep to, and the one sentence that says which it has not kept."""

LARGEST_COUNT = 10**9
"""The largest value of a setting that counts; more is a slip, and would overflow products."""
LARGEST_NUMBER = 1e9
"""The largest value of any other number."""


def require_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError naming key, choices and value unless the value is one of them."""
    require(key, value, value in choices, f"one of {', '.join(choices)}")


def require(key: str, value: object, holds: bool, rule: str = "at least 1") -> None:
    """Raise ValueError naming key, rule and value unless `holds` and a number is not beyond all measure."""
    if not holds:
        raise ValueError(f"{key} must be {rule}, got {value!r}")
    largest = LARGEST_COUNT if isinstance(value, int) else LARGEST_NUMBER
    if key != "train.seed" and isinstance(value, int | float) and value > largest:
        raise ValueError(f"{key} must be at most {largest:,.0f}, got {value!r}")
