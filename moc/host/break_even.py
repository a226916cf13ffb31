"""Whether a call is routed because that is faster: by the estimate or, where a user wants it, as measured beside the
first calls of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import comfy.model_management
import torch
from torch import Tensor

from ..backends import cost_model, registry
from ..backends.measured import Kind, Lap, identity
from ..trace.reasons import Reason
from .host_call import HostCall
from .state import READER, Call, Forward

T = TypeVar("T")
OURS = __name__.rpartition(".host.")[0]


@dataclass(frozen=True, eq=False)
class Choice:
    """backend: that routes; dense: why dense attention computes the call all the same; lap: both ways are timed."""

    backend: str | registry.Selected
    dense: Reason | None = None
    lap: Lap | None = None

    def timed(self, way: str, compute: Callable[[], T]) -> T:
        return compute() if self.lap is None else self.lap.way(way, compute)

    def beside(self, way: str, compute: Callable[[], Tensor], note: Callable[[str], None]) -> None:
        """Computed for its time alone: a failure costs that, and not somebody's film."""
        if self.lap is None:
            return
        try:
            self.lap.way(way, compute)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:
            note(f"{way} attention was not timed, so the estimate counts ({type(error).__name__}: {error})"[:300])


def choose(forward: Forward, call: Call, host_call: HostCall) -> Choice:
    q = host_call.q
    run, patch, schedule = forward.run, forward.run.patch, forward.run.patch.settings.schedule
    measures = schedule.break_even == "measured" and patch.stopwatch.clock.runs_on(q.device)
    if patch.backend != "auto" or schedule.min_tokens or not (measures or cost_model.applies(q.device)):
        return Choice(patch.backend)
    if is_training(q) or torch.is_grad_enabled():
        return Choice(patch.backend)  # who trains with MoC trains what it does on long films
    scale = q.shape[-1] ** -0.5 if call.scale is None else call.scale
    selected = registry.select("auto", registry.Call(q, call.table, call.routing, scale))
    pays = cost_model.pays(q, call.table, call.routing, kernels=selected.reason is None)
    if selected.reason is not None:
        if not pays:
            patch.trace.note(f"MoC's GPU kernels do not run here: {selected.reason}")
        return Choice(selected, None if pays else Reason.KERNELS)  # plain torch may take a hundred times as long
    reader = host_call.options.get(READER)
    if not measures or (reader is not None and reader.serves(host_call.options)):  # a bank is to be read once a call
        return Choice(selected, None if pays else Reason.SHORT)
    kind = _kind(call, host_call, selected)
    taken = run.break_even.take(kind, forward.sigma, pays)
    reason = Reason.SLOWER if taken.measured else Reason.SHORT
    return Choice(selected, None if taken.routed else reason, patch.stopwatch.begins(kind, q.device))


def is_training(q: Tensor) -> bool:
    flag = getattr(comfy.model_management, "in_training", None)  # not in ComfyUI 0.3.75
    return torch.is_grad_enabled() and q.requires_grad if flag is None else flag


def _kind(call: Call, host_call: HostCall, selected: registry.Selected) -> Kind:
    reader = host_call.options.get(READER)
    chain = (host_call.others, getattr(reader, "previous", None))  # the bank hands on what it does not serve
    q = host_call.q
    foreign = [f for link in chain for f in _functions(link) if not str(f.__module__).startswith(OURS)]
    name = getattr(foreign[0], "__name__", type(foreign[0]).__name__) if foreign else "other attention"
    card = torch.cuda.get_device_name(q.device) if q.device.type == "cuda" else q.device.type
    work = cost_model.work_of(call.table, call.routing, q.shape[0] * q.shape[1], q.shape[-1])
    by = name.removeprefix("attention_")
    return Kind(
        by, tuple(map(identity, chain)), card, tuple(q.shape), q.dtype, work, call.routing, selected.backend.name
    )


def _functions(link: object) -> Iterator[Callable]:
    """The overrides of a chain, outermost first, and the host's own attention."""
    if isinstance(link, partial):
        yield from (f for part in (link.func, *link.args) for f in _functions(part))
    elif callable(link):
        yield link
