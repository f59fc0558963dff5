"""All instructions that are known: each module adds its families to `building.FAMILIES`."""

from ptx_emulator import (  # noqa: F401
    arithmetic_instructions,
    barrier_instructions,
    bit_instructions,
    control_instructions,
    memory_instructions,
    register_instructions,
    tensor_cores,
)
