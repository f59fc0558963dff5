"""`doctor`: versions, devices and the chosen backend."""

from rich.console import Console

from fusedface.recipes.host.terminal import Table


def doctor() -> None:
    """Show versions, devices, the chosen backend with the reason, and saved tuning results."""
    from fusedface.kernels.chunks.build import state
    from fusedface.kernels.doctor import report
    from fusedface.models.loops.library import SOURCE

    table = Table("", ["", ""])
    for name, value in (*report(), ("layers on cpu", state(SOURCE))):
        table.add_row(name, value)
    Console().print(table)
