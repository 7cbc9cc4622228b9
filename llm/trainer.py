"""The training loop, as a generator of events.

Whoever drains it decides what becomes of the events. It obeys commands between steps (a stop also between
micro-batches), sees to the chores that are due, and never applies a step that is not finite. Of several ranks all
run this loop in step; the first alone obeys commands and does the chores, and the others hear what it decided.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from llm.checkpoint import TrainerState, restore_state
from llm.chores import Chores
from llm.commands import STOP, CommandQueue, set_live
from llm.config import RunConfig, with_overrides
from llm.core.bundle import Task
from llm.data.prefetch import Prefetcher
from llm.data.prepare import Dataset, batch_source
from llm.device import Plan, memory_in_use, peak_flops
from llm.distributed import LossOf, Ranks
from llm.errors import ConfigError, UserError
from llm.events import (
    CommandRefused,
    Event,
    Finished,
    KnobSet,
    Paused,
    Resumed,
    RolledBack,
    Skipped,
    StepLogged,
    Warned,
)
from llm.length import Length
from llm.optim import lr_at
from llm.run import Command, Run
from llm.run.checkpoints import is_whole
from llm.spikes import SpikeWatch
from llm.step import Rows, StepResult, TooLarge, take_step

LOG_SECONDS = 0.1
PAUSE_SECONDS = 0.05
REFUSALS = {"pause": "it is paused already", "resume": "it is not paused"}
IN_FLIGHT = 2
SHOWN_ROWS, SHOWN_TOKENS = 8, 100  # of a batch that was skipped, in the log
LOSS_SCALE_STEPS, LOSS_SCALE_MOST = 2000, 2.0**24


class Trainer:
    """Trains `state` on `dataset` to the length of `config`; `events()` is the whole of it."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        state: TrainerState,
        dataset: Dataset,
        plan: Plan,
        length: Length,
        commands: CommandQueue,
        loss_of: LossOf,
        core_tasks: Sequence[Task] = (),
        ranks: Ranks | None = None,
    ) -> None:
        self.run = run
        self.config = config
        self.state = state
        self.plan = plan
        self.length = length
        self.commands = commands
        self.loss_of = loss_of
        self.core_tasks = core_tasks
        self.tokenizer = dataset.tokenizer
        self.ranks = ranks or Ranks()
        self.chores = Chores(run, state, dataset, plan, length, core_tasks, self._say)
        self.batches = batch_source(
            dataset,
            config,
            rows=length.rows,
            seq_len=length.seq_len,
            start=state.batch_index,
            cursor=state.data_cursor,
            rank=self.ranks.rank,
            ranks=self.ranks.count,
        )
        self.started = time.perf_counter() - state.elapsed
        self.stop: Command | None = None
        self.in_flight: deque[tuple[StepResult, bool, Rows]] = deque()
        self.last_log = (time.perf_counter(), state.step)
        self.bad_steps = 0
        self.must_recover = False
        self.spikes = SpikeWatch()
        self.rolled_back_at = -1
        self.newly_set: list[tuple[str, str]] = []
        self.peak_flops = peak_flops(plan.device)

    # --- the loop

    def events(self) -> Iterator[Event]:
        """Train until the length is reached or a stop comes; every event in the order it happened."""
        with Prefetcher(self.batches.batch, start=self.state.batch_index) as prefetcher:
            yield from self._before_first_step()
            while self.state.step < self.length.steps:
                yield from self._agree()
                if self.stop is not None:
                    break
                if self.must_recover:
                    yield from self._recover()
                    continue
                batch = prefetcher.get(self.state.batch_index)
                result = self._step(batch)
                while isinstance(result, TooLarge):
                    yield self._smaller()
                    result = self._step(batch)
                if result is None:
                    continue
                yield from self._report(result, batch)
                self._note_position()
                if self.bad_steps < self.config.train.max_bad_steps:
                    yield from self._due()
            yield from self._finish()

    def _step(self, batch: Rows) -> StepResult | TooLarge | None:
        lr = lr_at(self.state.step, self.length.steps, self.config) * self.config.train.lr_multiplier
        return take_step(
            self.state,
            batch,
            self.plan,
            loss_of=self.loss_of,
            accumulation=self.length.accumulation,
            clip=self.config.train.clip,
            lr=lr,
            lr_scale=lr / self.config.train.lr,
            seed=self.config.train.seed,
            ranks=self.ranks,
            # Several ranks agree on a stop only between steps, for none may leave another waiting for its gradients.
            abandon=self.commands.stop_is_waiting if self.ranks.count == 1 else lambda: False,
        )

    def _before_first_step(self) -> Iterator[Event]:
        if self.state.step > 0 or not self.ranks.is_first:
            return
        if self.config.evaluate.at_start:
            yield from self._evaluate()
        if self.config.sample.every:
            yield from self._sample()

    def _due(self) -> Iterator[Event]:
        """What this step's number asks for. Evaluation comes first, so that a checkpoint holds its result."""
        if not self.ranks.is_first:
            return
        step, config = self.state.step, self.config
        improved = False
        if config.evaluate.every and step % config.evaluate.every == 0:
            best = self.state.best_validation_loss
            yield from self._evaluate()
            improved = best is None or self.state.best_validation_loss != best
        if self.core_tasks and step % config.evaluate.core_every == 0:
            yield from self._core()
        if config.sample.every and step % config.sample.every == 0:
            yield from self._sample()
        if config.checkpoint.only_improved:
            if improved:
                yield from self._save()
        elif config.checkpoint.every and step % config.checkpoint.every == 0:
            yield from self._save()

    def _finish(self) -> Iterator[Event]:
        yield from self._drain(0)
        reached = self.state.step >= self.length.steps
        if self.ranks.is_first:
            if reached and not self.chores.is_done("evaluate"):
                yield from self._evaluate()
            if reached and self.core_tasks and not self.chores.is_done("core"):
                yield from self._core()
            if not self.chores.is_done("save"):
                yield from self._save()
        if reached:
            yield self._say(Finished, status="finished")
        elif self.stop is not None:
            reason = str(self.stop.arguments.get("reason", "asked to stop"))
            yield self._say(Finished, status="stopped", reason=reason, command_id=self.stop.id)

    def _note_position(self) -> None:
        """Where the next batch begins in the corpus, for the next save: of all ranks, each with streams of its own."""
        cursor = self.batches.cursor(self.state.batch_index)
        self.state.data_cursor = self.ranks.gather(cursor) if cursor is not None else None

    # --- chores: first every result is read, so that they know of all steps before them

    def _evaluate(self, command_id: str = "") -> Iterator[Event]:
        yield from self._drain(0)
        yield from self.chores.evaluate(self.config, command_id)

    def _core(self) -> Iterator[Event]:
        yield from self._drain(0)
        yield from self.chores.core(self.config, self.commands.stop_is_waiting)

    def _sample(self, command_id: str = "") -> Iterator[Event]:
        yield from self._drain(0)
        yield from self.chores.sample(self.config, command_id)

    def _save(self, command_id: str = "") -> Iterator[Event]:
        yield from self._drain(0)
        self.state.elapsed = time.perf_counter() - self.started
        yield from self.chores.save(self.config, command_id)

    def _say(self, kind: type[Event], /, **values: Any) -> Event:
        self.state.elapsed = time.perf_counter() - self.started
        return kind(**({"step": self.state.step, "elapsed": self.state.elapsed} | values))

    # --- numbers: read off the device late, so that no step waits for its own loss

    def _report(self, result: StepResult, batch: Rows) -> Iterator[Event]:
        every = self.config.train.log_every
        if every:
            wanted = result.step % every == 0
        else:
            wanted = time.perf_counter() - self.last_log[0] >= LOG_SECONDS
        wanted = wanted or result.step in (1, self.length.steps)
        self.in_flight.append((result, wanted, batch))
        yield from self._drain(IN_FLIGHT if self.plan.device.startswith("cuda") else 0)

    def _drain(self, leave: int) -> Iterator[Event]:
        """Read results until at most `leave` remain unread."""
        while len(self.in_flight) > leave:
            result, wanted, (inputs, _) = self.in_flight.popleft()
            if not result.ok:
                yield self._skipped(result, inputs)
            else:
                self.bad_steps = 0
                self._grow_loss_scale()
                if said := self.spikes.see(result.loss):
                    yield self._say(Warned, step=result.step, message=said)
            if wanted:
                yield self._logged(result)

    def _logged(self, result: StepResult) -> Event:
        now = time.perf_counter()
        before, step_before = self.last_log
        self.last_log = (now, result.step)
        seconds = (now - before) / max(1, result.step - step_before)
        rate = self.length.tokens_per_step / seconds
        self.state.metrics["loss"] = result.loss
        return self._say(
            StepLogged,
            step=result.step,
            tokens_seen=result.tokens_seen,
            loss=result.loss,
            lr=result.lr,
            lr_multiplier=self.config.train.lr_multiplier,
            grad_norm=result.grad_norm,
            step_ms=seconds * 1000,
            tokens_per_second=rate,
            total_flops=result.tokens_seen * self.length.flops_per_token,
            memory_bytes=memory_in_use(self.plan.device),
            mfu=rate * self.length.flops_per_token / self.peak_flops if self.peak_flops else None,
        )

    def _grow_loss_scale(self) -> None:
        """fp16: try a finer resolution of small gradients again after many good steps (Micikevicius et al. 2018)."""
        if self.plan.precision != "fp16":
            return
        self.state.steps_at_scale += 1
        if self.state.steps_at_scale >= LOSS_SCALE_STEPS:
            self.state.loss_scale = min(self.state.loss_scale * 2, LOSS_SCALE_MOST)
            self.state.steps_at_scale = 0

    def _skipped(self, result: StepResult, inputs: np.ndarray) -> Event:
        if self.plan.precision == "fp16" and self.state.loss_scale > 1.0:
            self.state.loss_scale /= 2  # an overflow of the scaled gradients, not of the model
            self.state.steps_at_scale = 0
            reason = f"fp16 overflow; loss scale is now {self.state.loss_scale:g}"
        else:
            self.bad_steps += 1
            reason = "loss or gradient was not finite; the weights were left as they were"
        text = "\n".join(self.tokenizer.decode(row[:SHOWN_TOKENS].tolist()) for row in inputs[:SHOWN_ROWS])
        return self._say(
            Skipped, step=result.step, reason=reason, loss=result.loss, grad_norm=result.grad_norm, text=text
        )

    def _smaller(self) -> Event:
        """Halve the micro-batch after it did not fit in memory; a step keeps its rows, and so its tokens."""
        size = self.length.rows // self.ranks.count // self.length.accumulation
        if size % 2 or self.ranks.count > 1:
            advice = "lower train.batch_size, train.seq_len or the size of the model"
            raise UserError(f"a micro-batch of {size} × {self.length.seq_len} tokens does not fit in memory; {advice}.")
        if self.plan.device.startswith("cuda"):
            torch.cuda.empty_cache()
        self.state.accumulation = self.length.accumulation * 2
        self.length = replace(self.length, accumulation=self.state.accumulation)
        message = (
            f"out of memory: from now on {self.state.accumulation} micro-batches of {size // 2} sequences "
            f"instead of {size}; a step is still {self.length.tokens_per_step} tokens"
        )
        return self._say(Warned, message=message)

    def _recover(self) -> Iterator[Event]:
        """After too many bad steps in a row: back to the newest good checkpoint, once; then give up with advice."""
        yield from self._drain(0)
        self.bad_steps, self.must_recover = 0, False
        step, batch_index, cursor = self.state.step, self.state.batch_index, self.state.data_cursor
        infos = [info for info in self.run.checkpoints() if is_whole(info)]
        if not infos or self.rolled_back_at >= infos[-1].step:
            advice = "lower train.lr, lengthen schedule.warmup_steps, or set train.clip"
            raise UserError(
                f"the loss stayed non-finite for {self.config.train.max_bad_steps} steps in a row; {advice}."
            )
        overrides, accumulation = self.state.overrides, self.state.accumulation
        restore_state(self.state, infos[-1])
        self.state.overrides, self.state.accumulation = overrides, accumulation
        self.state.batch_index, self.state.data_cursor = batch_index, cursor  # the bad batches are not met again
        self.chores.done_at.pop("save", None)
        self.rolled_back_at = step
        self.last_log = (time.perf_counter(), self.state.step)
        yield self._say(RolledBack, from_step=step, reason="the loss was not finite several steps in a row")

    # --- commands

    def _agree(self) -> Iterator[Event]:
        """Obey what was asked since the last step; what it means for the other ranks is shared with them."""
        if self.ranks.is_first:
            yield from self._obey()
            self.must_recover = self.bad_steps >= self.config.train.max_bad_steps
        if self.ranks.count == 1:
            return
        decided = self.ranks.share({"stop": self.stop is not None, "set": self.newly_set, "recover": self.must_recover})
        if not self.ranks.is_first:
            self.config = with_overrides(self.config, [(key, text) for key, text in decided["set"]])
            self.stop = Command("stop", "") if decided["stop"] else None
            self.must_recover = decided["recover"]
        self.newly_set = []

    def _obey(self) -> Iterator[Event]:
        """Carry out what was asked since the last step; while paused, wait here."""
        self.commands.poll()
        paused_at = 0.0
        while self.stop is None:
            command = self.commands.next()
            if command is None:
                if not paused_at:
                    return
                time.sleep(PAUSE_SECONDS)
                self.commands.poll()
            elif command.name == "pause" and not paused_at:
                yield from self._drain(0)
                yield self._say(Paused, command_id=command.id)
                paused_at = time.perf_counter()
            elif command.name == "resume" and paused_at:
                self._forget_pause(paused_at)
                paused_at = 0.0
                yield self._say(Resumed, command_id=command.id)
            else:
                yield from self._carry_out(command)
        if paused_at:
            self._forget_pause(paused_at)

    def _forget_pause(self, since: float) -> None:
        """Training time does not pass while paused."""
        pause = time.perf_counter() - since
        self.started += pause
        self.last_log = (self.last_log[0] + pause, self.last_log[1])

    def _carry_out(self, command: Command) -> Iterator[Event]:
        chores = {
            "save": self._save,
            "evaluate": self._evaluate,
            "sample": self._sample,
            "snapshot": self.chores.snapshot,
        }
        if command.name in STOP:
            self.stop = command
        elif command.name == "set":
            yield self._set_knob(command)
        elif command.name in chores:
            yield from chores[command.name](command.id)
        else:
            reason = REFUSALS.get(command.name, "unknown command")
            yield self._say(CommandRefused, command=command.name, reason=reason, command_id=command.id)

    def _set_knob(self, command: Command) -> Event:
        key, value = str(command.arguments.get("key", "")), str(command.arguments.get("value", ""))
        try:
            previous, changed, new = set_live(self.config, key, value)
        except ConfigError as error:
            return self._say(CommandRefused, command=f"set {key}", reason=str(error), command_id=command.id)
        self.config = changed
        self.state.overrides[key] = value
        self.newly_set.append((key, value))
        return self._say(KnobSet, key=key, value=new, previous=previous, command_id=command.id)
