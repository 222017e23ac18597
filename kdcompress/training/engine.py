"""The one training engine: any method, any device, resumable to the same weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from kdcompress.console import say
from kdcompress.data.batch import Batch, Pairing, split_rows
from kdcompress.data.loader import Loader
from kdcompress.data.source import Source
from kdcompress.distributed import check_launch, loss_of_a_process_told, processes, reduced
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.methods.base import Method
from kdcompress.models.taps import Taps
from kdcompress.recipe import Augment, Train
from kdcompress.training.batch_norm import SharedBatchNorm
from kdcompress.training.cache import open_cache
from kdcompress.training.checkpoint import load_checkpoint, save_checkpoint
from kdcompress.training.compiling import compile_members, leave_uncompiled
from kdcompress.training.distillation import Distillation
from kdcompress.training.dot import DOT
from kdcompress.training.evaluation import accuracy
from kdcompress.training.memory import freed_memory_kept
from kdcompress.training.profile import Clock, Profiler, outside_step_percent
from kdcompress.training.schedule import lr_scale
from kdcompress.training.strided import subsample_first

CHECK_EVERY = 25  # steps between looks at the losses: each look waits for the device
CHECKPOINT_SECONDS = 30.0
KEPT = ("history", "best", "last", "best_weights", "last_weights", "sections")  # of the result, in a checkpoint


@dataclass
class TrainResult:
    """``best`` and ``last`` hold epoch and validation accuracy in per cent; the weights of both are
    on the CPU. Everything but the weights is in ``record()``."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    selected: str = "best"
    images_seen: int = 0
    teacher_passes: int = 0  # images that a teacher was shown
    teacher_cache: dict[str, Any] = field(default_factory=dict)  # see cache.TeacherCache.record
    seconds: float = 0.0
    sections: dict[str, float] = field(default_factory=dict)  # of the seconds: which part of the loop took them
    outside_step_percent: float = 0.0  # of the seconds: data, evaluation, checkpoints, logging and the rest
    device: str = "cpu"
    precision: str = "fp32"
    compiled: str = "off"  # torch.compile's mode, or why it was not used
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    last_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.best_weights if self.selected == "best" else self.last_weights

    def record(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if not k.endswith("_weights")}


class EMA:
    """Exponential moving average of a network's weights and float buffers. It warms up, so that the untrained weights
    it begins with do not stay in it."""

    def __init__(self, net: torch.nn.Module, decay: float):
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: torch.nn.Module, step: int) -> None:
        """After the step of that number, from 1."""
        share = 1 - min(self.decay, warm_decay(step))
        for name, value in net.state_dict().items():
            mine = self.state[name]
            mine.lerp_(value, share) if mine.is_floating_point() else mine.copy_(value)


def warm_decay(step: int) -> float:
    """The largest decay at the step of that number, from 1, where it is 0: timm's ``ModelEmaV3`` with its warm-up."""
    return 1 - step ** (-2 / 3)


def unreached(decay: float, steps: int) -> str | None:
    """What is to be told of a decay that the warm-up does not reach in so many steps."""
    if warm_decay(steps) >= decay:
        return None
    after = math.ceil(round((1 - decay) ** -1.5, 3))
    return f"train.ema={decay} is reached after {after:,} steps; of {steps:,} the last has {warm_decay(steps):.4f}"


def choose_precision(asked: str) -> str:
    """``auto``: bf16 where the device computes in it natively, else fp32. Raises UsageError for fp16 on a CPU."""
    if torch.cuda.is_available():
        return (
            ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
            if asked == "auto"
            else asked
        )
    if asked == "fp16":
        raise UsageError("Training in fp16 needs a GPU.", allowed="auto, fp32, bf16", hint="train.precision=auto")
    if asked == "auto":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return "bf16" if native else "fp32"
    return asked


def check_optimizer(train: Train, kinds: Iterable[type[Method]], processes: int) -> None:
    """Raises UsageError where the optimizer cannot train these methods, or in so many processes."""
    if train.optimizer != "dot":
        return
    if all(kind.family == "baseline" for kind in kinds):
        raise UsageError(
            "train.optimizer=dot keeps distillation terms apart from the task's, and the method has none.",
            hint="train.optimizer=sgd, or a method that distils",
        )
    if processes > 1:
        raise UsageError(
            "train.optimizer=dot trains in one process: its two gradients are not averaged over several.",
            got=f"{processes} processes",
            hint="train.optimizer=sgd, or start one process",
        )


def share_state(distillation: Distillation) -> None:
    """What the methods that see the whole batch remember is the same in every process: given out once, not at each
    step."""
    if processes() == 1:
        return
    names = distillation.remembered()
    buffers = dict(distillation.named_buffers())
    for name in names:
        torch.distributed.broadcast(buffers[name], 0)
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(distillation, names)


def make_optimizer(module: torch.nn.Module, train: Train) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
    nesterov = train.nesterov and train.momentum > 0
    if train.optimizer == "dot":
        return DOT(parameters, train.lr, train.momentum, train.dot_delta, train.weight_decay, nesterov)
    return torch.optim.SGD(
        parameters, train.lr, train.momentum, nesterov=nesterov, weight_decay=train.weight_decay, fused=True
    )


@loss_of_a_process_told()
@freed_memory_kept()
def train(
    distillation: Distillation,
    source: Source,
    options: Train,
    augment: Augment,
    seed: int,
    folder: Path,
    progress: Callable[[int, int, dict[str, float]], None] = lambda step, steps, facts: None,
    profile: Path | None = None,
) -> TrainResult:
    """Train ``distillation`` on ``source.train``; choose by ``source.validation``.

    ``folder`` holds the checkpoint: called again after an interruption, the training goes on from
    there and ends with the weights it would have had. ``progress(step, steps, facts)`` is told of
    the mean loss, images a second and the last validation accuracy. ``profile``: a folder for a trace and a table of
    where the time goes.

    Raises KDCompressError when a loss term is not finite, with the step, the images and the term, and UsageError
    for a precision or an optimizer that cannot train this here.
    """
    check_launch()
    precision = choose_precision(options.precision)
    AcceleratorState._reset_state()  # teacher and student may train in different precisions
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    device = accelerator.device
    check_optimizer(options, [type(method) for method in distillation.auxiliary().values()], accelerator.num_processes)
    loader = Loader(
        source.train,
        augment,
        options.batch_size,
        seed,
        device=device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        channels_last=options.channels_last,
        rows=distillation.rows,
    )
    per_epoch = loader.steps_per_epoch
    steps = math.ceil(options.images / loader.rows_per_step) if options.images else round(options.epochs * per_epoch)
    steps = max(1, steps)

    if options.channels_last:
        distillation = distillation.to(memory_format=torch.channels_last)
    distillation = distillation.to(device)
    subsampling = subsample_first(distillation) if options.channels_last else []
    share_state(distillation)
    module, optimizer = accelerator.prepare(distillation, make_optimizer(distillation, options))
    student = distillation.student
    ema = EMA(student.net, options.ema) if options.ema else None
    if options.ema and accelerator.is_main_process and (told := unreached(options.ema, steps)):
        say(told, style="dim")

    result = TrainResult(selected=options.select, device=str(device), precision=precision)
    sums: dict[str, float] = {}  # of the terms since the last epoch began
    counted, start, spent = 0, 0, 0.0
    torch.manual_seed(seed)  # dropout and the like; batches and views do not draw from it
    checkpoint = folder / "checkpoint.pt"
    accelerator.wait_for_everyone()  # the first process has prepared the folder
    if (saved := load_checkpoint(checkpoint)) is not None:
        start, counted, spent, sums = saved["step"], saved["counted"], saved["seconds"], saved["sums"]
        distillation.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        result = TrainResult(**{**result.record(), **saved["result"]})
        distillation.teacher_passes = saved["teacher_passes"]
        if ema:
            ema.state = {k: v.to(device) for k, v in saved["ema"].items()}
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(saved["scaler"])
        torch.set_rng_state(saved["rng"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"], device)

    if options.compile != "off":
        distillation.train()
        example = loader.batch_at(start).parts(options.accumulate, distillation.rows)[0]
        why = compile_members(distillation, example.x, options.compile, accelerator.autocast)
        result.compiled = f"no: {why}" if why else options.compile
    cache, result.teacher_cache = open_cache(
        distillation,
        loader,
        source.hash,
        augment,
        options,
        precision,
        accelerator.autocast,
        accelerator.is_main_process,
    )
    if cache and saved is not None:
        cache.hits, cache.misses = saved.get("cache", (0, 0))
    if profile is not None and accelerator.is_main_process:
        clock: Clock = Profiler(result.sections, profile, distillation, device, steps - start)
    else:
        clock = Clock(result.sections)
    begun = last_saved = last_looked = time.monotonic()
    window: list[Tensor] = []  # the terms of the steps not looked at yet, on the device
    names: list[str] = []
    rate = 0.0

    def backward(terms: dict[str, Tensor]) -> None:
        """The gradients of the terms' sum; or of its two parts, clipped, for an optimizer that tells them apart."""
        if isinstance(optimizer.optimizer, DOT):
            optimizer.optimizer.backward(terms, options.clip_norm)
            return
        accelerator.backward(sum(terms.values()))

    def look(step: int) -> None:
        """Fetch the window's terms, stop at the first that is not finite, add the rest up."""
        nonlocal counted, last_looked, rate
        if not window:
            return
        values = reduced(torch.stack(window), "SUM").cpu() / accelerator.num_processes
        if not torch.isfinite(values).all():
            row = int((~torch.isfinite(values)).any(1).nonzero()[0])
            raise _diverged(loader, step - len(window) + row, steps, dict(zip(names, values[row].tolist())))
        for name, value in zip(names, values.double().sum(0).tolist()):
            sums[name] = sums.get(name, 0.0) + value
        counted += len(window)
        now = time.monotonic()
        rate = len(window) * loader.rows_per_step / max(now - last_looked, 1e-9)
        last_looked = now
        window.clear()

    def state(step: int) -> dict[str, Any]:
        return {
            "step": step,
            "counted": counted,
            "seconds": spent + time.monotonic() - begun,
            "sums": sums,
            "teacher_passes": distillation.teacher_passes,
            "cache": (cache.hits, cache.misses) if cache else (0, 0),
            "module": distillation.state_dict(),
            "optimizer": optimizer.state_dict(),
            "ema": ema.state if ema else None,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "result": {k: getattr(result, k) for k in KEPT},
        }

    def validate(step: int) -> None:
        raw = {k: v.detach().clone() for k, v in student.net.state_dict().items()} if ema else None
        if ema:
            student.net.load_state_dict(ema.state)
        # in the training's precision: twice as fast in bf16; other shapes and modes are not worth compiling again
        eager = nullcontext() if options.compile == "off" else torch.compiler.set_stance("force_eager")
        with accelerator.autocast(), eager:
            score = accuracy(student, source.validation, device, options.channels_last)
        weights = {k: v.detach().cpu().clone().contiguous() for k, v in student.net.state_dict().items()}
        if raw:
            student.net.load_state_dict(raw)
        epoch = round(step / per_epoch, 3)
        result.last, result.last_weights = {"epoch": epoch, "accuracy": score}, weights
        if not result.best or score > result.best["accuracy"]:
            result.best, result.best_weights = copy.copy(result.last), weights
        terms = {name: total / max(counted, 1) for name, total in sums.items()}
        seconds = spent + time.monotonic() - begun
        result.history.append(
            {
                "epoch": epoch,
                "step": step,
                "lr": optimizer.param_groups[0]["lr"],
                "loss": sum(terms.values()),
                "terms": terms,
                "validation_accuracy": score,
                "images_per_second": round(step * loader.rows_per_step / seconds, 1),
                "seconds": round(seconds, 2),
            }
        )

    module.train()
    batches = loader.batches(start)
    try:
        for step in range(start, steps):
            clock.at(step - start)
            with clock.section("data"):
                batch = next(batches)
            done = step / steps
            if options.compile != "off":  # looking at this imports the compiler
                torch.compiler.cudagraph_mark_step_begin()
            with clock.section("forward"):
                answers = cache.answers(step, batch.x) if cache and distillation.taught(done) else None
            terms: dict[str, Tensor] = {}
            for number, (part, known) in enumerate(_parts(batch, answers, options.accumulate, distillation.rows), 1):
                last = number == options.accumulate
                with nullcontext() if last else accelerator.no_sync(module):
                    with clock.section("forward"), SharedBatchNorm() if options.sync_batch_norm else nullcontext():
                        found = module(part.x, part.y, done, part.index, part.view, known)
                        found = {name: term / options.accumulate for name, term in found.items()}
                    with clock.section("backward"):
                        backward(found)
                terms = {name: term.detach() + terms.get(name, 0.0) for name, term in found.items()}
            if options.clip_norm and not isinstance(optimizer.optimizer, DOT):
                with clock.section("backward"):
                    accelerator.clip_grad_norm_(module.parameters(), options.clip_norm)
            with clock.section("optimizer"):
                for group in optimizer.param_groups:
                    group["lr"] = options.lr * lr_scale(options, done)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if ema:
                    ema.update(student.net, step + 1)
            if list(terms) != names:  # a term has begun or ended
                with clock.section("device"):
                    look(step)
                names = list(terms)
            window.append(torch.stack([term.float() for term in terms.values()]))

            finished = step + 1
            epoch_ends = finished % per_epoch == 0 or finished == steps
            if epoch_ends or len(window) == CHECK_EVERY:
                with clock.section("device"):
                    look(finished)
                facts = {"loss": sum(sums.values()) / counted, "images_per_second": rate}
                due = epoch_ends or time.monotonic() - last_saved > CHECKPOINT_SECONDS
                if cache and due:
                    with clock.section("checkpoints"):
                        cache.flush()
                if epoch_ends:
                    if accelerator.is_main_process:
                        with clock.section("evaluation"):
                            validate(finished)
                        facts["validation_accuracy"] = result.last["accuracy"]
                    accelerator.wait_for_everyone()
                    sums, counted = {}, 0
                if due and accelerator.is_main_process:
                    with clock.section("checkpoints"):
                        save_checkpoint(state(finished), checkpoint)
                    last_saved = time.monotonic()
                if accelerator.is_main_process:
                    with clock.section("logging"):
                        progress(finished, steps, facts)
                last_looked = time.monotonic() if epoch_ends else last_looked
    finally:
        batches.close()
        clock.close()
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):  # of accelerate, which would leave
            vars(distillation).pop(name, None)  # autocast out where the same module is trained again
        leave_uncompiled(distillation)
        for handle in subsampling:
            handle.remove()

    result.teacher_passes = distillation.teacher_passes * accelerator.num_processes
    if cache:
        result.teacher_cache = cache.record()
    result.images_seen = steps * loader.rows_per_step
    result.seconds = spent + time.monotonic() - begun
    if start == steps:  # everything was done before the interruption
        result.seconds = spent
    result.outside_step_percent = outside_step_percent(result.sections)
    if isinstance(clock, Profiler):
        clock.write(folder.name, result.images_seen)
    return result


def _parts(
    batch: Batch, answers: list[Taps] | None, count: int, rows: Pairing
) -> Iterator[tuple[Batch, list[Taps] | None]]:
    """The parts of a batch, with the teachers' answers to each where they are known."""
    if answers is None:
        yield from ((part, None) for part in batch.parts(count, rows))
        return
    split = []
    for taps in answers:
        pooled = [None] * count if taps.pooled is None else split_rows(taps.pooled, count, rows)
        split.append([replace(taps, logits=a, pooled=b) for a, b in zip(split_rows(taps.logits, count, rows), pooled)])
    yield from zip(batch.parts(count, rows), map(list, zip(*split)))


def _diverged(loader: Loader, step: int, steps: int, terms: dict[str, float]) -> KDCompressError:
    batch = loader.batch_at(step)
    index = [] if batch.index is None else batch.index.tolist()
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    shown = ", ".join(map(str, index[:16])) + (f", ... ({len(index)} in all)" if len(index) > 16 else "")
    return KDCompressError(
        f"The training diverged: {' and '.join(bad)} is not finite at step {step + 1} of {steps}.",
        where=f"training images {shown}",
        got=", ".join(f"{name}={value:.4g}" for name, value in terms.items()),
        hint="lower train.lr, set train.clip_norm=1, or train in fp32 (train.precision=fp32)",
    )
