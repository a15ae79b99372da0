"""The training loop: steps, checkpoints, validation; it goes on exactly where a killed run stopped."""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pcseg.batch import PointBatch
from pcseg.checkpoint import SUFFIX, Checkpoint, CheckpointCard, save_checkpoint
from pcseg.datasets.streams import collate
from pcseg.errors import InputError
from pcseg.optim import WeightAverage, make_optimizer, rate_factor
from pcseg.prefetch import prefetch
from pcseg.processes import failing_together, gathered, num_processes, summed, tell
from pcseg.pyramid import Level
from pcseg.run_log import RunLog

if TYPE_CHECKING:
    from accelerate import Accelerator

Chunk = tuple[dict[str, PointBatch], dict[str, Sequence[Level]]]


class _Shared(nn.Module):
    """A method as several processes train it, with a parameter that nothing uses.

    Which parameters a step uses depends on method, progress and data, so DDP has to look for those that it does not;
    where it finds none it complains at length. Here there is always one.
    """

    def __init__(self, method: nn.Module):
        super().__init__()
        self.method, self.never_used = method, nn.Parameter(torch.zeros(()))

    def forward(self, *given: object) -> dict[str, Tensor]:
        return self.method(*given)


class Trainer:
    """One run, of one process or of several that share each step.

    Step s of n processes takes the crops that one process would take with n times the batch size, and the gradient is
    the mean of theirs: n processes are one with ``accumulate`` n, up to rounding. So batch norms see the crops of each
    process alone, and means over labelled rows are taken process by process; their running statistics are averaged
    after each step. Weights, statistics and the state of the method are the same on all; the first process alone
    validates, writes and speaks. Random numbers are each process' own.

    Args:
        card: describes the run; step, scores and time are filled in when a checkpoint is written.
        method: network and losses (:func:`pcseg.methods.build_method`).
        item: number i of every stream; depends on nothing but i.
        average: of the network's weights, which is then what is scored and kept; None: none.
        validate: scores of a network by name; None: no validation.
        folder: of the run.
    """

    def __init__(
        self,
        *,
        card: CheckpointCard,
        method: nn.Module,
        item: Callable[[int], Mapping[str, PointBatch]],
        average: WeightAverage | None = None,
        validate: Callable[[nn.Module], Mapping[str, float]] | None,
        folder: Path,
        accelerator: Accelerator,
    ):
        self.card, self.config, self.item, self.validate = card, card.config, item, validate
        self.folder, self.accelerator = folder, accelerator
        self.method = method
        self.model: nn.Module = method.model  # pyright: ignore[reportAttributeAccessIssue]
        optimizer = make_optimizer(method, self.config.optim)
        if num_processes() > 1:  # of kernels of 1 x 1, whose strides mean nothing
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():  # torch 2.13 renames the argument, which accelerate passes on by its old name
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            shared = method if num_processes() == 1 else _Shared(method)
            self._forward, self.optimizer = accelerator.prepare(shared, optimizer)
        # Only now, as buffers that go to another device are other tensors.
        self._statistics = [
            value for name, value in method.named_buffers() if name.endswith(("running_mean", "running_var"))
        ]
        self.average = average
        self.step, self.seconds, self.finished = 0, 0.0, False
        self.scores: dict[str, float] = {}
        self.best = -math.inf

    def resume(self, checkpoint: Checkpoint) -> None:
        """Be where the run was when it wrote ``checkpoint``.

        Raises:
            InputError: a checkpoint that holds no state of training.
        """
        state = checkpoint.training
        if state is None:
            raise InputError(f"{checkpoint.path}: holds weights only; start from it with --init, in another run folder")
        self.model.load_state_dict(state.get("weights", checkpoint.weights))
        for name, value in self._own_state().items():
            value.data.copy_(state["method"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict({"count": state["averaged"], "weights": checkpoint.weights})
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        of_process = [state["rng"], *state.get("rng_of_others", [])]
        own = self.accelerator.process_index
        if own < len(of_process):
            torch.set_rng_state(of_process[own]["cpu"])
            if of_process[own]["cuda"] and self.accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(of_process[own]["cuda"][0], self.accelerator.device)
        if len(of_process) != num_processes():
            tell(
                f"{checkpoint.path}: is of {len(of_process)} processes, now {num_processes()}; other crops from here on"
            )
        self.step, self.seconds = checkpoint.card.step, checkpoint.card.train_seconds
        self.finished = checkpoint.card.finished
        self.scores = dict(checkpoint.card.scores)
        self.best = state["best"]

    def run(self) -> None:
        """Train to the end, and leave the checkpoints ``last`` and ``best``; a finished run stays as it is.

        Raises:
            InputError: the loss is no longer finite; or what another process met.
            OSError: a checkpoint could not be written.
            KeyboardInterrupt: Ctrl-C, after the step in progress and a checkpoint.
        """
        if self.finished:
            return
        config = self.config
        silent = not self.accelerator.is_main_process
        batches = prefetch(self._chunks, self.step, config.steps, config.prefetch)
        log = RunLog(self.folder / "tensorboard", config.steps, self.step, silent=silent)
        self._forward.train()
        with log:
            self._train(log, batches)
            # All steps are kept by now, so that an interrupt or bad data cost no more than the scores.
            self.finished = True
            self._evaluate(log)
            self._save_last()

    def _train(self, log: RunLog, batches: Iterator[list[Chunk]]) -> None:
        """All steps that are left, the last of them saved."""
        config = self.config
        with contextlib.closing(batches), _polite_interrupt() as interrupted:  # pyright: ignore[reportArgumentType]
            clock = time.perf_counter()
            while self._progress() < 1.0:
                progress = self._progress()
                rate = config.optim.lr * rate_factor(config.schedule, progress)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate * group["factor"]
                with failing_together(self.accelerator.device):
                    chunks = next(batches)
                terms = self._optimize(chunks, progress)
                self.step += 1
                spent, clock = time.perf_counter() - clock, time.perf_counter()
                # All must stop at the same step.
                shared = self._mean({"seconds": self.seconds + spent, "interrupted": float(bool(interrupted))})
                self.seconds = shared["seconds"]
                log.step(self.step, sum(terms.values()), terms, rate, self.seconds)
                log.curves(self.step, {f"method/{name}": float(value) for name, value in self._observed().items()})
                done = self._progress() >= 1.0
                if shared["interrupted"]:
                    self._save_last()
                    raise KeyboardInterrupt
                if not done and config.eval_every and self.step % config.eval_every == 0:
                    self._evaluate(log)
                if done or self.step % config.save_every == 0:
                    self._save_last()
                clock = time.perf_counter()

    def _own_state(self) -> dict[str, Tensor]:
        """What the method keeps beside its network, prototypes and projections: the tensors themselves, by name."""
        network = {id(value) for value in self.model.state_dict(keep_vars=True).values()}
        method = self.method.state_dict(keep_vars=True)
        return {name: value for name, value in method.items() if id(value) not in network}

    def _observed(self) -> dict[str, Tensor]:
        """What a method tells beside its terms, () each; of this process."""
        return getattr(self.method, "observed", {})

    def described(self) -> CheckpointCard:
        """The run's card as of now."""
        return self.card.model_copy(
            update={
                "step": self.step,
                "scores": self.scores,
                "protocol": self.config.eval_protocol if self.scores else None,
                "train_seconds": self.seconds,
                "finished": self.finished,
            }
        )

    def _progress(self) -> float:
        """Share of the run that is done, by steps or by the clock, whichever is further."""
        done = self.step / self.config.steps
        return done if self.config.time_limit is None else max(done, self.seconds / self.config.time_limit)

    def _mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Over the processes, which have the same names."""
        if num_processes() == 1:
            return dict(values)
        own = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, (summed(own) / num_processes()).tolist(), strict=True))

    def _average_statistics(self) -> None:
        """Running statistics of norms, each of one process' crops, become those of all crops."""
        if num_processes() == 1 or not self._statistics:
            return
        own = torch.cat([values.flatten() for values in self._statistics])
        means = (summed(own) / num_processes()).split([values.numel() for values in self._statistics])
        for values, mean in zip(self._statistics, means, strict=True):
            values.copy_(mean.view_as(values))

    def _chunks(self, step: int) -> list[Chunk]:
        """The streams of a step in ``accumulate`` parts, with their pyramids, on the device of the network."""
        size, rank = self.config.batch_size, self.accelerator.process_index
        first = (step * self.accelerator.num_processes + rank) * size
        items = [self.item(first + number) for number in range(size)]
        share = size // self.config.accumulate
        chunks = []
        for start in range(0, size, share):
            packed = collate(items[start : start + share])
            streams = {name: batch.to(self.accelerator.device) for name, batch in packed.items()}
            levels = {name: self.model.levels(batch) for name, batch in streams.items()}  # pyright: ignore
            chunks.append((streams, levels))
        return chunks

    def _optimize(self, chunks: Sequence[Chunk], progress: float) -> dict[str, float]:
        """One step of the optimiser; returns the loss terms, means over the processes."""
        sums: dict[str, Tensor] = {}
        for number, (streams, levels) in enumerate(chunks, start=1):
            last = number == len(chunks)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self._forward):
                with self.accelerator.autocast():
                    terms = self._forward(streams, levels, progress)
                loss = torch.stack(list(terms.values())).sum() / len(chunks)
                self.accelerator.backward(loss)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(chunks)
        values = self._mean({name: float(value) for name, value in sums.items()})
        if not math.isfinite(sum(values.values())):
            raise InputError(
                f"the loss is {sum(values.values())} at step {self.step + 1}; "
                f"the checkpoint of an earlier step is kept: try a smaller --optim.lr"
            )
        if self.config.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.method.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average_statistics()
        if self.average is not None:
            self.average.update(self.model)
        return values

    def _evaluate(self, log: RunLog) -> None:
        """Score the network, and keep it as ``best`` if no earlier one was better."""
        with failing_together(self.accelerator.device):  # and all wait here until it is done
            if not self.accelerator.is_main_process:
                return
            if self.validate is not None:
                with self._averaged():
                    self.scores = dict(self.validate(self.model))
                log.curves(self.step, {f"val/{name}": value for name, value in self.scores.items()})
                shown = "  ".join(f"{name} {value:.4f}" for name, value in self.scores.items())
                log.say(f"step {self.step}: {shown}  ({self.config.eval_protocol})")
            score = self.scores.get(self.config.best_metric, -math.inf)
            if self.validate is None or score >= self.best or not math.isfinite(self.best):
                self.best = score
                self._write("best")

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within the block the network has the averaged weights, where there are any."""
        if self.average is None:
            yield
            return
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.weights)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def _save_last(self) -> None:
        """The checkpoint to go on from. Every process takes part."""
        device = self.accelerator.device
        cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        first, *others = gathered({"cpu": torch.get_rng_state(), "cuda": cuda})
        with failing_together(device):
            if not self.accelerator.is_main_process:
                return
            scaler = getattr(self.accelerator, "scaler", None)
            training: dict[str, Any] = {
                "optimizer": self.optimizer.state_dict(),
                "rng": first,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "best": self.best,
                "method": {name: value.detach() for name, value in self._own_state().items()},
            }
            if others:
                training["rng_of_others"] = others
            if self.average is not None:
                training |= {"weights": self.model.state_dict(), "averaged": self.average.count}
            self._write("last", training)

    def _write(self, name: str, training: dict[str, Any] | None = None) -> None:
        weights = self.model.state_dict() if self.average is None else self.average.weights
        folder = self.folder / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(
            Checkpoint(card=self.described(), weights=weights, training=training), folder / f"{name}{SUFFIX}"
        )


@contextlib.contextmanager
def _polite_interrupt() -> Iterator[list[int]]:
    """Within the block Ctrl-C only fills the list, so that a step ends and a checkpoint is whole; twice means now."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        former = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: whoever runs us there deals with signals
        yield seen
        return
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, former)
