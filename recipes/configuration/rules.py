"""Checks of settings, with one form of message for all."""

import re

LARGEST_COUNT = 10**9
"""The largest integer setting. A larger one is a typing mistake, and would overflow products."""
LARGEST_NUMBER = 1e9
"""The largest setting of type float."""


def require_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a ValueError that names key, choices and value unless the value is one of the choices."""
    require(key, value, value in choices, f"one of {', '.join(choices)}")


def require_at_least(record: object, prefix: str, **least: int) -> None:
    """Raise a ValueError for a setting of `record` below its least value; its key is "prefix.name"."""
    for name, smallest in least.items():
        value = getattr(record, name)
        require(f"{prefix}.{name}", value, value >= smallest, f"at least {smallest}")


def require(key: str, value: object, holds: bool, rule: str) -> None:
    """Raise a ValueError that names key, rule and value unless `holds` and a number is within its limit."""
    if not holds:
        raise ValueError(f"{key} must be {rule}, got {value!r}")
    largest = LARGEST_COUNT if isinstance(value, int) else LARGEST_NUMBER
    if key != "train.seed" and isinstance(value, int | float) and value > largest:
        raise ValueError(f"{key} must be at most {largest:,.0f}, got {value!r}")


def require_file(
    key: str, path: str | None, digest_key: str, digest: str | None, option: str
) -> None:
    """Raise a ValueError unless a file and its SHA-256 are both given or both left out.

    Args:
        key: the setting with the path.
        path: the path, if any.
        digest_key: the setting with the SHA-256.
        digest: the SHA-256 in hexadecimal digits, if any.
        option: what on the command line fills in both.
    """
    if (path is None) != (digest is None):
        raise ValueError(f"{key} and {digest_key} go together; {option} fills in both")
    is_digest = digest is None or re.fullmatch("[0-9a-f]{64}", digest) is not None
    require(digest_key, digest, is_digest, "64 hexadecimal digits")
