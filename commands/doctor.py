"""`doctor`: versions, devices and the chosen backend."""

from rich.console import Console

from fusedface.recipes.host.terminal import Table


def doctor() -> None:
    """Show versions, devices, the chosen backend with the reason, and saved tuning results."""
    from fusedface.kernels.doctor import report

    table = Table("", ["", ""])
    for name, value in report():
        table.add_row(name, value)
    Console().print(table)
