"""Damage valid files at random and read them: `python tests/fuzz.py --seconds 60 --seed 0 [READER...]`.

Each input has five seconds and the process 4 GiB of address space. The first input that ends in
anything but an answer or a ValueError is kept, and named. `--guided READER` mutates by coverage instead
(`pip install atheris`), until an input is found or the seconds are over.
"""

import argparse
import collections
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

if "--guided" in sys.argv:  # what is imported below is instrumented
    import atheris

    with atheris.instrument_imports(
        include=["fusedface.data", "fusedface.models", "fusedface.recipes"]
    ):
        from hostile_readers import READERS, mutate, outcome
else:
    from hostile_readers import READERS, mutate, outcome

LIMIT = 4 << 30  # bytes; torch alone maps more than one
SECONDS_AN_INPUT = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", default=list(READERS))
    parser.add_argument("--seconds", type=float, default=60.0, help="a reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="one reader, by coverage")
    arguments = parser.parse_args()
    if arguments.guided:
        return _guided(arguments.readers[0], arguments.seconds)
    signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    for name in arguments.readers:
        rng, counts = random.Random(f"{arguments.seed} {name}"), collections.Counter()
        with tempfile.TemporaryDirectory() as folder:
            reader, path = READERS[name], Path(folder) / READERS[name].name
            valid = reader.valid(Path(folder))
            end = time.monotonic() + arguments.seconds
            while time.monotonic() < end:
                data = mutate(rng.choice(valid), rng)
                signal.alarm(SECONDS_AN_INPUT)
                try:
                    counts[outcome(reader, path, data)] += 1
                except BaseException:
                    kept = Path(tempfile.gettempdir()) / f"fuzz-{path.name}"
                    kept.write_bytes(data)
                    print(f"{name}: after {counts.total()} inputs; the input is {kept}")
                    raise
                finally:
                    signal.alarm(0)
        print(
            f"{name}: {counts.total()} inputs, {counts['read']} read, {counts['refused']} refused"
        )
    return 0


def _guided(name: str, seconds: float) -> int:
    """Fuzz one reader with libFuzzer, from its valid files on."""
    with tempfile.TemporaryDirectory() as folder:
        reader, corpus = READERS[name], Path(folder) / "corpus"
        corpus.mkdir()
        for i, data in enumerate(reader.valid(Path(folder))):
            (corpus / str(i)).write_bytes(data)
        path = Path(folder) / reader.name
        options = [
            f"-max_total_time={int(seconds)}",
            f"-timeout={SECONDS_AN_INPUT}",
            "-max_len=65536",
        ]
        atheris.Setup(
            [sys.argv[0], *options, str(corpus)], lambda data: outcome(reader, path, data)
        )
        atheris.Fuzz()
    return 0


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS_AN_INPUT} seconds")


if __name__ == "__main__":
    sys.exit(main())
