"""What a run tells while it goes on: a progress bar or lines on the terminal, curves for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RunLog:
    """Curves and progress of one run; silent on processes other than the main one.

    Args:
        folder: of the event files, None: no curves.
        steps: of the whole run.
        start: steps already done; curves beyond it, of a run that was killed, are hidden.
    """

    SMOOTHING = 0.95

    def __init__(self, folder: Path | None, steps: int, start: int, *, silent: bool = False):
        self.steps, self.silent = steps, silent
        self.console = Console(stderr=True, quiet=silent)
        self.smoothed: float | None = None
        self.lines_every = max(1, steps // 10)
        self.writer = None
        if folder is not None and not silent:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder), purge_step=start)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        columns += (TextColumn("{task.fields[state]}"), TimeElapsedColumn(), TimeRemainingColumn())
        hidden = silent or not self.console.is_terminal
        self.bar = Progress(*columns, console=self.console, disable=hidden)
        self.task = self.bar.add_task("train", total=steps, completed=start, state="")

    def __enter__(self) -> RunLog:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def step(self, step: int, loss: float, terms: Mapping[str, float], rate: float, seconds: float) -> None:
        """After optimiser step number ``step`` (counted from 1)."""
        keep = self.SMOOTHING if self.smoothed is not None else 0.0
        self.smoothed = keep * (self.smoothed or 0.0) + (1.0 - keep) * loss
        self.curves(step, {"loss": loss, "rate": rate, **{f"loss/{name}": value for name, value in terms.items()}})
        self.bar.update(self.task, completed=step, state=f"loss {self.smoothed:.3f}")
        if self.bar.disable and (step % self.lines_every == 0 or step == self.steps):
            self.say(f"step {step}/{self.steps}  loss {self.smoothed:.4f}  rate {rate:.2e}  {seconds:.0f} s")

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def say(self, line: str) -> None:
        """A line on stderr, above the bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
