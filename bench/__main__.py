"""`python -m bench ...` is `python cli.py bench ...`."""

import sys

from fusedface.cli import main

if __name__ == "__main__":
    sys.argv = [sys.argv[0], "bench", *sys.argv[1:]]
    main()
