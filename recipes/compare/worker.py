"""One run in a separate process: python -m fusedface.recipes.compare.worker RECIPE OUT [DEVICE].

Separate processes keep memory peaks, random numbers and crashes of runs apart.
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
    """Start or resume a run; an error is one line on standard error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run_recipe(read_recipe(recipe), out, resume=True, device=device, console=Console(width=200))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error_text(error)}")


def _end_with_parent() -> None:
    """Stop this run if the comparison's process ends, so that the next comparison can resume it."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
