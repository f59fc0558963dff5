"""`doctor`: versions, devices and the chosen backend."""

from rich.console import Console

from fusedface.recipes.host.terminal import Table


def doctor() -> None:
    """Show versions, devices, the chosen backend with the reason, and saved tuning results."""
    from fusedface.kernels.chunks.build import state
    from fusedface.kernels.doctor import report
    from fusedface.models.loops.library import SOURCE

    table = Table("", ["", ""])
    table.add_rows([*report(), ("layers on cpu", state(SOURCE))])
    Console().print(table)
