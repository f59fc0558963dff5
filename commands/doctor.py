"""`doctor`: what runs here, and why."""

from rich.console import Console

from fusedface.recipes.host.terminal import Table


def doctor() -> None:
    """What runs here, and why: versions, devices, the backend chosen, tuned choices on disk."""
    from fusedface.kernels.doctor import report

    table = Table("", ["", ""])
    for name, value in report():
        table.add_row(name, value)
    Console().print(table)
