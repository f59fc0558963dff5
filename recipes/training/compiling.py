"""Compiles the passes of a run, if the first compiled step agrees with the same step as it was."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusedface.data import FaceBatch
from fusedface.kernels import NonFiniteInputError
from fusedface.recipes.training.compile_choice import Choice
from fusedface.recipes.training.rehearsal import LARGEST_DIFFERENCE, Before, difference

if TYPE_CHECKING:
    from fusedface.recipes.training.passes import Passed, Passes


class Compiling:
    """Has the passes of a run compiled from the first step on that trains the backbone.

    That step is made twice, from the same state. If the compiled one fails, or has another gradient, the
    run goes on without it and says so. The other one counts then, and nothing is lost. A step whose
    gradient is not finite, as a scaled loss has at first, tells nothing: the next one is tried.

    Args:
        passes: forward and backward of a step.
        model: the backbone.
        head: the head with the class centres.
        choice: what `train.compile` means here.
        dtype: of the backbone's products.
        note: called with a line for the user.

    Attributes:
        is_on: whether steps are compiled; None before the first step that trains the backbone.
    """

    def __init__(
        self,
        passes: "Passes",
        model: nn.Module,
        head: nn.Module,
        choice: Choice,
        dtype: torch.dtype,
        note: Callable[[str], None],
    ) -> None:
        self._passes, self._model, self._head = passes, model, head
        self._choice, self._dtype, self._note = choice, dtype, note
        self.is_on: bool | None = None

    def go_on(self, is_on: bool | None, *, is_new: bool = False) -> bool | None:
        """Go on with a run whose steps were compiled or not; None if none had been made yet.

        Args:
            is_on: of the run so far.
            is_new: whether `train.compile` was another one.

        Returns:
            `is_on`, or None where it no longer holds.
        """
        if is_on is None or not self._choice.is_possible:
            return is_on
        if self._choice.is_auto:
            self._choice = Choice(on=is_on, why="as the run began", is_auto=True)
        elif self._choice.on and is_new:
            return None
        elif self._choice.on and not is_on:  # another trial could change the bits half-way
            self._choice = Choice(on=False, why="its check failed before")
            self._note("train.compile: off, the compiled step did not pass its check before")
        return is_on

    def is_due(self) -> bool:
        """Whether the next step, which trains the backbone, is the one to make by `trial`."""
        if self.is_on is not None:
            return False
        if self._choice.on:
            return True
        self.is_on = False
        if self._choice.is_auto:
            self._note(f"train.compile=auto: off, {self._choice.why}")
        return False

    def trial(self, batch: FaceBatch) -> "Passed":
        """The step by the compiled passes, or by the others if something is wrong with it.

        As `Passes`; the gradients must not be there yet.
        """
        self.is_on = True
        buffers = [*self._model.buffers(), *self._head.buffers()]
        before = Before(buffers, next(self._model.parameters()).device)
        passed = self._passes(batch, is_frozen=False)
        if not all(bool(gradient.isfinite().all()) for gradient in self._gradients()):
            self.is_on = None
            return passed
        expected = self._take_gradients()
        before.restore()
        began, apart = time.perf_counter(), torch.inf
        try:
            self._passes.compile(on=True)
            passed = self._passes(batch, is_frozen=False)
            apart = difference(self._gradients(), expected)
            problem = None
            if not apart <= LARGEST_DIFFERENCE[self._dtype]:
                problem = f"its gradient differs by {apart:.2g} of its length"
        except NonFiniteInputError:
            raise
        except Exception as error:  # a compiler may fail in any way
            lines = str(error).strip().splitlines() or [""]
            passed, problem = None, f"{type(error).__name__}: {lines[0][:200]}"
        seconds = time.perf_counter() - began
        if problem is None and passed is not None:
            said = f"compiled in {seconds:.0f} s; its gradient differs by {apart:.1g} of its length"
            self._note(f"train.compile: on, {self._choice.why} ({said})")
            return passed
        self._note(f"train.compile: off, the compiled step did not pass its check: {problem}")
        self.is_on = False
        self._passes.compile(on=False)
        self._take_gradients()
        before.restore()
        return self._passes(batch, is_frozen=False)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._model.parameters() if p.grad is not None]

    def _take_gradients(self) -> list[Tensor]:
        """The backbone's gradients; afterwards there are none."""
        gradients = self._gradients()
        self._model.zero_grad(set_to_none=True)
        self._head.zero_grad(set_to_none=True)
        self._passes.forget_gradients()
        return gradients
