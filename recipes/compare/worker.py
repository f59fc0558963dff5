"""One run in a process of its own: python -m fusedface.recipes.compare.worker RECIPE OUT [DEVICE].

A process a run keeps runs apart: their memory peaks, their random numbers, and a crash of one of them.
"""

import os
import signal
import sys
import threading
import time

from rich.console import Console

from fusedface.recipes.configuration.settings import read_recipe
from fusedface.recipes.host.terminal import error_text
from fusedface.recipes.run import run_recipe


def main(recipe: str, out: str, device: str | None = None) -> None:
    """Run or go on with a run; a mistake is one line on standard error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run_recipe(read_recipe(recipe), out, resume=True, device=device, console=Console(width=200))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error_text(error)}")


def _end_with_parent() -> None:
    """Stop in good order when the comparison is gone, or the next one would find this run going on."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
