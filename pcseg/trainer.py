"""The training loop: steps, checkpoints, validation; it goes on exactly where a killed run stopped."""

from __future__ import annotations

import contextlib
import math
import signal
import time
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
from pcseg.pyramid import Level
from pcseg.run_log import RunLog

if TYPE_CHECKING:
    from accelerate import Accelerator

Chunk = tuple[dict[str, PointBatch], dict[str, Sequence[Level]]]


class Trainer:
    """One run.

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
        self.model: nn.Module = method.model  # pyright: ignore[reportAttributeAccessIssue]
        optimizer = make_optimizer(method, self.config.optim)
        self.method, self.optimizer = accelerator.prepare(method, optimizer)
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
        torch.set_rng_state(state["rng"]["cpu"])
        if state["rng"]["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.step, self.seconds = checkpoint.card.step, checkpoint.card.train_seconds
        self.scores = dict(checkpoint.card.scores)
        self.best = state["best"]

    def run(self) -> None:
        """Train to the end, and leave the checkpoints ``last`` and ``best``.

        Raises:
            InputError: the loss is no longer finite.
            OSError: a checkpoint could not be written.
            KeyboardInterrupt: Ctrl-C, after the step in progress and a checkpoint.
        """
        config = self.config
        silent = not self.accelerator.is_main_process
        batches = prefetch(self._chunks, self.step, config.steps, config.prefetch)
        log = RunLog(self.folder / "tensorboard", config.steps, self.step, silent=silent)
        self.method.train()
        with log, contextlib.closing(batches), _polite_interrupt() as interrupted:  # pyright: ignore[reportArgumentType]
            clock = time.perf_counter()
            while not self.finished:
                progress = self._progress()
                rate = config.optim.lr * rate_factor(config.schedule, progress)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate * group["factor"]
                terms = self._optimize(next(batches), progress)
                self.step += 1
                self.seconds, clock = self.seconds + time.perf_counter() - clock, time.perf_counter()
                log.step(self.step, sum(terms.values()), terms, rate, self.seconds)
                self.finished = self._progress() >= 1.0
                if interrupted:
                    self._save("last")
                    raise KeyboardInterrupt
                if self.finished or (config.eval_every and self.step % config.eval_every == 0):
                    self._evaluate(log)
                if self.finished or self.step % config.save_every == 0:
                    self._save("last")
                clock = time.perf_counter()

    def _own_state(self) -> dict[str, Tensor]:
        """What the method keeps beside its network, prototypes and projections: the tensors themselves, by name."""
        method: nn.Module = self.accelerator.unwrap_model(self.method)
        network = {id(value) for value in self.model.state_dict(keep_vars=True).values()}
        return {name: value for name, value in method.state_dict(keep_vars=True).items() if id(value) not in network}

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
        if self.config.time_limit is None:
            return done
        seconds = self.seconds
        if self.accelerator.num_processes > 1:  # all processes must stop at the same step
            seconds = float(
                self.accelerator.gather(torch.tensor([seconds], device=self.accelerator.device)).max()  # pyright: ignore
            )
        return max(done, seconds / self.config.time_limit)

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
        """One step of the optimiser; returns the loss terms."""
        sums: dict[str, Tensor] = {}
        for number, (streams, levels) in enumerate(chunks, start=1):
            last = number == len(chunks)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.method):
                with self.accelerator.autocast():
                    terms = self.method(streams, levels, progress)
                loss = torch.stack(list(terms.values())).sum() / len(chunks)
                self.accelerator.backward(loss)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(chunks)
        values = {name: float(value) for name, value in sums.items()}
        if not math.isfinite(sum(values.values())):
            raise InputError(
                f"the loss is {sum(values.values())} at step {self.step + 1}; "
                f"the checkpoint of an earlier step is kept: try a smaller --optim.lr"
            )
        if self.config.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.method.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model)
        return values

    def _evaluate(self, log: RunLog) -> None:
        """Score the network, and keep it as ``best`` if no earlier one was better."""
        if self.accelerator.is_main_process:
            if self.validate is not None:
                with self._averaged():
                    self.scores = dict(self.validate(self.model))
                log.curves(self.step, {f"val/{name}": value for name, value in self.scores.items()})
                shown = "  ".join(f"{name} {value:.4f}" for name, value in self.scores.items())
                log.say(f"step {self.step}: {shown}  ({self.config.eval_protocol})")
            score = self.scores.get(self.config.best_metric, -math.inf)
            if self.validate is None or score >= self.best or not math.isfinite(self.best):
                self.best = score
                self._save("best")
        self.accelerator.wait_for_everyone()

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

    def _save(self, name: str) -> None:
        if not self.accelerator.is_main_process:
            return
        own = self.model.state_dict()
        training: dict[str, Any] | None = None
        if name == "last":
            scaler = getattr(self.accelerator, "scaler", None)
            cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
            training = {
                "optimizer": self.optimizer.state_dict(),
                "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
                "scaler": scaler.state_dict() if scaler is not None else None,
                "best": self.best,
                "method": {name: value.detach() for name, value in self._own_state().items()},
            }
            if self.average is not None:
                training |= {"weights": own, "averaged": self.average.count}
        weights = own if self.average is None else self.average.weights
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
