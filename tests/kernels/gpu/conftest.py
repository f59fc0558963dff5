"""Triton is there only on Linux; without it there is nothing to compile or to choose."""

from importlib.util import find_spec

if find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
