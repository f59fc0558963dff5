"""Started by torchrun: a run of which rank 1 is killed in the middle of its second save."""

import os
import signal
import sys
from pathlib import Path

from fusedface.recipes.configuration.settings import read_recipe
from fusedface.recipes.host.terminal import print_error
from fusedface.recipes.host.watch import speaks
from fusedface.recipes.run import run_recipe


def die_in_second_save():
    """With half of the file of the class centres written."""
    from fusedface.models import shard_writer

    original, calls = shard_writer.digest_of, []

    def replacement(path):
        calls.append(path)
        if len(calls) == 2:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path)

    shard_writer.digest_of = replacement


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        die_in_second_save()
    try:
        run_recipe(read_recipe(sys.argv[1]), Path(sys.argv[2]), device="cpu")
    except OSError as error:
        if speaks(error):
            print_error(error)
        sys.exit(1)
