"""One QLoRA run, from the data file to the adapter: the loop is our own, and reads top to bottom.

Imports nothing heavy by itself: a stop request is answered from the first moment on.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from trainer import model as models, state
from trainer.exits import (
    CRASHED,
    DIVERGED,
    FINISHED,
    SAVE_FAILED,
    SAVED_ON_REQUEST,
    USAGE,
    Refusal,
)
from trainer.packing import supervised_in, tokens_in
from trainer.picture import draw
from trainer.progress import Pace, Status, clock_text, tell, warn
from trainer.sampler import steps_per_epoch
from trainer.schedule import learning_rate
from trainer.session import OUT_OF_MEMORY_ADVICE, Session, claim, prepare
from trainer.stop import FINAL_SAVE_GRACE_S, StopRequests

if TYPE_CHECKING:
    from trainer.config import Config

AfterStep = Callable[[int], None]
Result = TypeVar("Result")
BOARDS_GRACE_S = 3.0
SILENT_AT_MOST_S = 1.0
"""How long an end on request waits for boards: whoever asked waits too."""


def run(config: Config, after_step: AfterStep | None = None) -> int:
    """The exit code of a whole run; `output_dir` then holds what `trainer/README.md` lists.

    `after_step(step)` is called after each optimizer step, 1 being the first. Catches SIGTERM and
    SIGINT while it runs (see `stop.py`), so the main thread must call it.
    """
    for notice in config.notices:
        warn(notice)
    with StopRequests() as stop:
        try:
            with claim(config.output_dir):
                return _run_told(config, stop, after_step)
        except Refusal as refusal:
            warn(refusal.text())
            return refusal.exit_code


def _run_told(config: Config, stop: StopRequests, after_step: AfterStep | None) -> int:
    """_run, with its end told in status.json, however it ends."""
    status = Status(config.output_dir)
    told_stop = {"phase": "stopped", "exit_code": SAVED_ON_REQUEST, "detail": "on request"}
    stop.before_exit = functools.partial(status.update, **told_stop)
    status.update(phase="load")
    try:
        code = _to_the_end(prepare(config, stop, status), after_step)
    except Refusal as refusal:
        status.update(phase="failed", exit_code=refusal.exit_code, detail=refusal.text())
        raise
    except BaseException as error:
        status.update(phase="failed", exit_code=CRASHED, detail=f"{type(error).__name__}: {error}")
        raise
    phase = {FINISHED: "done", SAVED_ON_REQUEST: "stopped"}.get(code, "failed")
    status.update(phase=phase, exit_code=code, eta_s=0.0 if code == FINISHED else None)
    return code


def _to_the_end(session: Session, after_step: AfterStep | None) -> int:
    """_train and _finish; then what shows the run is told of its end, however it ends."""
    code: int | None = None
    try:
        code = _train(session, after_step)
        if code == FINISHED:
            code = _finish(session)
        return code
    finally:
        session.bar.close()
        if session.stop.requested:
            session.boards.close(code, BOARDS_GRACE_S)
        else:
            with session.stop.deferred(FINAL_SAVE_GRACE_S):
                session.boards.close(code)


def _train(session: Session, after_step: AfterStep | None) -> int:
    """Step to the end: FINISHED, SAVED_ON_REQUEST, SAVE_FAILED or DIVERGED.

    On the first two the last step is in a checkpoint.
    """
    config, progress = session.config, session.progress
    with session.stop.deferred():
        session.pace = Pace()
        last_save_s = time.monotonic()
        _tell(session, phase="train")
        while progress.step < session.total_steps or progress.judge_due:
            if not progress.judge_due:
                diverged = _step(session)
                if diverged:
                    return diverged
                if after_step:
                    after_step(progress.step)
                progress.judge_due = _is_time_to_judge(session)
            better = _judge(session) if progress.judge_due else False
            early = _reason_to_end(session)
            last = progress.step == session.total_steps or early is not None
            requested = session.stop.requested
            by_time = 0 < config.save_interval_s <= time.monotonic() - last_save_s
            if last or requested or by_time or better or progress.step % config.save_steps == 0:
                saved = _save(session)
                last_save_s = time.monotonic()
                if (last or requested) and not saved:
                    return SAVE_FAILED
                if requested and (not last or progress.judge_due):
                    return SAVED_ON_REQUEST
            if early:
                session.status.update(stopped_early=early, detail=f"ended early: {early}")
                tell(f"ended early at step {progress.step}: {early}")
                break
    return FINISHED


def _step(session: Session) -> int | None:
    """Take one step and account for it; DIVERGED if its loss says so, else None."""
    progress, rate = session.progress, _rate(session)
    loss, tokens = _optimizer_step(session, rate)
    if not math.isfinite(loss):
        return _diverged(session, loss, rate, "the loss or its gradient is no finite number")
    progress.step += 1
    session.pace.step_done(tokens)
    _account(session, loss, rate)
    if progress.watch.step(loss, session.config.run.diverged_factor):
        return _diverged(session, loss, rate, "the loss has run away from its lowest")
    return None


def _optimizer_step(session: Session, rate: float) -> tuple[float, int]:
    """(loss, tokens read) of one optimizer step; a loss that is not finite changes no weight."""
    import torch

    step = session.progress.step
    samples = session.samples_of(step)
    loss_ahead = _within_memory(session, lambda: session.passes.gradients(samples))
    parameters = models.trainable(session.model)
    norm_ahead = torch.nn.utils.clip_grad_norm_(parameters, session.config.max_grad_norm)
    if step + 1 < session.total_steps:  # while the card is at work
        session.passes.prefetch(session.samples_of(step + 1))
    loss = float(loss_ahead.item())
    if math.isfinite(loss) and not math.isfinite(norm_ahead.item()):
        loss = math.nan
    if math.isfinite(loss):
        for group in session.optimizer.param_groups:
            group["lr"] = rate
        _update(session)
    session.passes.zero_gradients()
    return loss, tokens_in(samples)


def _within_memory(session: Session, work: Callable[[], Result]) -> Result:
    """What `work` returns; it is done again on another plan where the card's memory runs out.

    Then all is put back as it was before (gradients, random numbers; the place in the data is the
    step's number), and less is done at a time.
    """
    before = state.random_state() if session.passes.random else None
    while True:
        try:
            return work()
        except Exception as error:
            if not models.is_out_of_memory(error):
                raise
        _retreat(session)
        if before is not None:
            state.set_random_state(before)


def _retreat(session: Session) -> None:
    """Go on with less memory; Refusal, with all saved, where there is no less."""
    phase = session.status.phase
    try:
        session.retreat()
    except Refusal:
        _save(session)
        raise
    _tell(session, phase=phase)


def _update(session: Session) -> None:
    """The optimizer's own step; Refusal if the card has no memory for it.

    Some weights may have changed by then, so it is not done again: the last checkpoint stands.
    """
    try:
        session.optimizer.step()
    except Exception as error:
        if not models.is_out_of_memory(error):
            raise
        what = "out of memory in the optimizer's own step"
        hint = f"use --optim paged_adamw_8bit, or {OUT_OF_MEMORY_ADVICE.removeprefix('use ')}"
        place = f"step {session.progress.step + 1}"
        raise Refusal(USAGE, what, where=place, hint=hint) from error


def _is_time_to_judge(session: Session) -> bool:
    """Whether the held-out samples are due: every `eval_steps`, or at each epoch's end."""
    step = session.progress.step
    epoch = steps_per_epoch(len(session.samples), session.config.samples_per_step)
    every = session.config.run.eval_steps or epoch
    return bool(session.judged_by) and (step % every == 0 or step == session.total_steps)


def _judge(session: Session) -> bool:
    """Whether the loss on the held-out samples is the best so far; told in log and status.

    A stop request breaks it off, since it may take minutes: it is still due on the resume.
    """
    session.status.update(phase="evaluate")
    total = 0.0
    for batch in session.held_out_batches():
        if session.stop.requested:
            _tell(session, phase="train")
            return False
        total += _within_memory(session, functools.partial(session.passes.loss_sum, batch))
    session.progress.judge_due = False
    loss = total / supervised_in(session.judged_by)
    progress = session.progress
    better = progress.watch.judged(loss, progress.step, session.config.run.min_improvement_percent)
    if better:
        session.checkpoints.best_step = progress.step
        best = {"step": progress.step, "eval_loss": loss}
        session.status.update(best_checkpoint=best)
    session.log.append({"current_steps": progress.step, "total_steps": session.total_steps,
                        "eval_loss": loss, "phase": "evaluate"})  # fmt: skip
    tell(f"step {progress.step}/{session.total_steps}  held-out loss {loss:.4f}")
    session.boards.add(progress.step, eval_loss=loss)
    _tell(session, phase="train", eval_loss=loss)
    return better


def _reason_to_end(session: Session) -> str | None:
    """Why the run ends here although steps are left, or None."""
    progress = session.progress
    budget = session.control.stop_at_step()
    if progress.step == session.total_steps:
        return None
    if budget is not None and progress.step >= budget:
        return "step_budget"
    return "plateau" if progress.watch.plateau(session.config.run.patience) else None


def _diverged(session: Session, loss: float, rate: float, why: str) -> int:
    """DIVERGED, told in log and status; the last checkpoint is from before."""
    step = session.progress.step + (0 if math.isfinite(loss) else 1)
    if not math.isfinite(loss):
        _log_line(session, loss, rate, step)
    warn(f"step {step}: {why}")
    session.status.update(detail=why)
    return DIVERGED


def _account(session: Session, loss: float, rate: float) -> None:
    """Add the step's loss to the interval's mean; log that when the interval ends.

    Between, a step that comes a second or more after the last line has one with its own loss: who
    watches a run whose steps take long should not wait ten of them for a sign of life.
    """
    progress, every = session.progress, session.config.logging_steps
    progress.loss_sum += loss
    progress.loss_steps += 1
    _tell(session, loss=loss)
    session.bar.show(progress.step, loss, session.pace.eta_s(session.total_steps - progress.step))
    if progress.step % every == 0 or progress.step == session.total_steps:
        _log_line(session, progress.loss_sum / progress.loss_steps, rate, progress.step)
        progress.loss_sum, progress.loss_steps = 0.0, 0
    elif session.log.silent_s() >= SILENT_AT_MOST_S:
        _log_line(session, loss, rate, progress.step, aloud=False)


def _log_line(session: Session, loss: float, rate: float, step: int, *, aloud: bool = True) -> None:
    """A line in the log; `aloud` on the terminal and the boards too."""
    total, pace = session.total_steps, session.pace
    eta_s, tokens_per_s = pace.eta_s(total - step), pace.tokens_per_s()
    epoch = step / steps_per_epoch(len(session.samples), session.config.samples_per_step)
    remaining = None if eta_s is None else clock_text(eta_s)
    session.log.append(
        {
            "current_steps": step,
            "total_steps": total,
            "loss": loss,
            "lr": rate,
            "epoch": round(epoch, 4),
            "percentage": round(100 * step / total, 2),
            "elapsed_time": clock_text(pace.elapsed_s()),
            "remaining_time": remaining,
            "throughput": None if tokens_per_s is None else round(tokens_per_s, 2),
            "phase": session.status.phase,
            "session_tokens_per_s": None if tokens_per_s is None else round(tokens_per_s, 2),
            "peak_memory_gib": round(models.peak_memory_gib(session.device), 3),
        }
    )
    if aloud:
        session.boards.add(step, loss=loss, lr=rate, tokens_per_s=tokens_per_s)
        tell(f"step {step}/{total}  loss {loss:.4f}  lr {rate:.2e}  left {remaining or '?'}")


def _tell(session: Session, **fields: Any) -> None:
    step, pace = session.progress.step, session.pace
    eta_s, tokens_per_s = pace.eta_s(session.total_steps - step), pace.tokens_per_s()
    session.status.update(step=step, eta_s=eta_s, tokens_per_s=tokens_per_s, **fields)


def _save(session: Session) -> bool:
    """Whether a checkpoint of this step is on the disk now. A failure loses only this save."""
    session.status.update(phase="save")
    facts = {"semantics": session.semantics, "execution": session.execution}
    files = state.pack(session.model, session.optimizer, session.progress, facts)
    try:
        checkpoint = session.checkpoints.save(session.progress.step, files)
    except OSError as error:
        text = f"checkpoint-{session.progress.step} could not be saved: {error}"
        warn(text)
        _tell(session, phase="train", detail=text)
        return False
    _tell(session, phase="train", detail=None, last_checkpoint=checkpoint.as_json())
    return True


def _finish(session: Session) -> int:
    """Write `adapter/` from the last step's checkpoint. FINISHED or SAVE_FAILED."""
    with session.stop.deferred(FINAL_SAVE_GRACE_S):
        session.status.update(phase="save")
        try:
            step = _best_step(session)
            path = session.checkpoints.save_adapter(step, session.semantics)
        except OSError as error:
            warn(f"the adapter could not be saved: {error}: free the disk and run the same again")
            session.status.update(detail=f"the adapter could not be saved: {error}")
            return SAVE_FAILED
    if session.config.run.plot:
        draw(session.config.output_dir)
    tell(f"done: {path}")
    return FINISHED


def _best_step(session: Session) -> int:
    """The step whose adapter is the result: the last, or after a plateau the best one judged."""
    progress = session.progress
    if progress.watch.plateau(session.config.run.patience):
        return progress.watch.best_eval_step
    return progress.step


def _rate(session: Session) -> float:
    return learning_rate(
        session.progress.step,
        peak=session.config.learning_rate,
        scheduler=session.config.lr_scheduler_type,
        warmup_steps=session.config.warmup(session.total_steps),
        total_steps=session.total_steps,
    )
