"""Reads the batches of an epoch; all processes of a run stop at the same batch."""

from collections.abc import Callable, Iterable, Iterator

from fusedface.data import FaceBatch
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.signals import StopRequest, WorkerDeaths

LOST, STOP, NEWS = 1, 2, 4  # bits that the processes exchange before a step


class LostImagesError(RuntimeError):
    """The next batch cannot be read; the training state is that after the previous step."""


class Reader:
    """Reads batches; if one process has to stop, all stop.

    Args:
        batches: this process's parts of the remaining batches of an epoch.
        processes: the processes that share each batch.
        stop: knows whether this process has received a signal.
        deaths: tells of a process that reads images and has died, only while a batch is read.
        report: called with images that some process could not read.
    """

    def __init__(
        self,
        batches: Iterable[FaceBatch],
        processes: Processes,
        stop: StopRequest,
        deaths: WorkerDeaths,
        report: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._batches, self._processes = _read(batches), processes
        self._stop, self._deaths, self._report = stop, deaths, report

    def next(self) -> FaceBatch | str | None:
        """The next batch; None at the end of an epoch; the name of a signal if any process has one.

        Raises:
            LostImagesError: on all processes, if one of them cannot read its part.
        """
        batch, problem = None, None
        try:
            # After a signal, the processes that read images may be dead.
            if self._stop.signal_name is None:
                with self._deaths.reading():
                    batch = next(self._batches, None)
        except LostImagesError as error:
            problem = error
        except RuntimeError as error:
            problem = _lost_worker(error)
        name, unreadable = self._stop.signal_name, batch.unreadable if batch is not None else ()
        code = LOST * (problem is not None) | STOP * (name is not None) | NEWS * bool(unreadable)
        code = self._processes.any_code(code)
        if code & STOP:  # also with LOST: the signal may have ended the processes that read images
            return next(found for found in self._processes.gather(name) if found is not None)
        if code & LOST:
            texts = self._processes.gather(None if problem is None else str(problem))
            raise LostImagesError(next(text for text in texts if text is not None)) from problem
        if code & NEWS:
            for problems in self._processes.gather(unreadable):
                self._report(problems)
        return batch


def _read(batches: Iterable[FaceBatch]) -> Iterator[FaceBatch]:
    """The batches; raises LostImagesError with the reason if one cannot be read."""
    try:
        yield from batches
    except ValueError as error:
        raise LostImagesError(_first_cause(error)) from error
    except RuntimeError as error:
        raise _lost_worker(error) from error


def _lost_worker(error: RuntimeError) -> LostImagesError:
    """What to raise if torch says that a process which reads images has died; raises other errors."""
    if not str(error).startswith("DataLoader worker"):
        raise error
    return LostImagesError(f"a process that reads images has died: {error}")


def _first_cause(error: ValueError) -> str:
    """The message of an error; for a worker's error, without the traceback that precedes it."""
    return str(error).rpartition("\nValueError: ")[2].strip()
