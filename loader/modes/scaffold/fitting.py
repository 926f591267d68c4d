"""How a checkpoint goes into a model that was found: nested key, rules, allowances, and the forward pass.

Guarantees: confirmed by the loader's own plan; every key of the model is filled, except those that the user allowed to
stay without a partner. The forward pass is tried with shapes alone; only an error that a shape decides is a failure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ...apply.misfit import refuse_misfit
from ...apply.prepare import prepare
from ...errors import ConfigError, FitError
from ...module.slots import slots, wanted
from ...parts import Part
from ...schema import AUTO, AllowConfig, JobConfig, Rule
from ...suggest.advice import Advice
from ...suggest.problem import Explanation, plan_as_typed
from ...suggest.search import explain
from ...suggest.sizes.probe import Probe
from ...suggest.tensors.proposed import DOUBT
from ...text.lines import Fix
from ...text.wording import counted, safe_text
from ...verify.forward import Pass, run
from ...verify.inputs import make_inputs
from ...verify.proposal import propose

_TARGET = "_target_"
DEFAULT = "loader.examples.SimpleNet"
"""The model that is configured when nobody names one."""
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Fitting:
    """What to write into a config."""

    key: str | None
    rules: Mapping[str, Rule]
    allow: AllowConfig
    loaded: int
    reasons: tuple[str, ...] = ()
    ways: tuple[Explanation, ...] = ()
    """Explanations of which none is taken: several, or one that loads an average next to the weights."""


def fitting_of(job: JobConfig, part: Part, module: nn.Module) -> Fitting | None:
    """How the file fits a model; None where it does not."""
    keys = wanted(slots(module))
    problem = Advice(module, [part], keys, job.allow).problem(part)
    plan = plan_as_typed(problem)
    if plan is not None:
        return Fitting(problem.key, problem.rules or {}, job.allow, len(plan.loaded))
    found = explain(problem, keys_free=problem.key in (None, AUTO)).explanations
    whole = tuple(e for e in found if _fills(e, job.allow) and not e.resizes)  # other arguments come first
    if not whole:
        return None
    first = whole[0]
    ways = whole if len(whole) > 1 or first.swaps else ()
    reasons = (*first.reasons, DOUBT) if first.doubt else first.reasons
    return Fitting(first.key, first.rules, first.allow, first.loaded, reasons, ways)


def _fills(explanation: Explanation, allow: AllowConfig) -> bool:
    """Whether nothing of the model would stay as it was initialized."""
    after = explanation.allow
    return after.missing == allow.missing and after.mismatched == allow.mismatched


def no_fit(job: JobConfig, part: Part, module: nn.Module, values: Mapping[str, Any], probe: Probe) -> FitError:
    """The refusal where no arguments make the file fit; it says how close it came."""
    target = safe_text((job.model or {}).get(_TARGET, ""))
    name, tried = target.rpartition(".")[2], ", ".join(f"{name}={value}" for name, value in values.items())
    cut_off = ", after which the search was cut off," if probe.cut_off else ""
    head = (
        f"no arguments of {target} were found with which it has the names and shapes of {part.label}; the closest of "
        f"{counted(probe.spent, 'build')}{cut_off} was {safe_text(f'{name}({tried})', _LONGEST)}:"
    )
    settings = part.config.checkpoint
    settings = dataclasses.replace(settings, key=None if settings.key == AUTO else settings.key)
    config = dataclasses.replace(part.config, checkpoint=settings, rules=part.config.rules or {})
    part, advise = dataclasses.replace(part, config=config), partial(Advice, allow=job.allow)
    try:
        refuse_misfit(prepare(module, [part], job.allow, torch.device("cpu"), None, advise), advise)
    except (FitError, ConfigError) as error:
        own = (
            [Fix("model._target_=my_pkg.Net", "the class of the model in the file")]
            if target == DEFAULT
            else error.fixes
        )
        return FitError(f"{head}\n{error.message}", *own)
    raise LookupError(part.label)


_GIVE = "then give verify.input={shape: …} and take this out"


def forward_note(module: nn.Module) -> str:
    """Returns why the forward pass has to be switched off: no input can be proposed, or the proposed one fails.

    Args:
        module: The model, which is moved to the meta device.
    """
    proposal = propose(module)
    if proposal is None:
        return f"the first layer does not show the input's shape; {_GIVE}"
    trouble = _trouble(module, proposal[0])
    return f"proposed from {proposal[1]}: {trouble}; {_GIVE}" if trouble else ""


def _trouble(module: nn.Module, spec: dict[str, object]) -> str:
    """The fault of a forward pass without data; empty if it succeeds, or cannot be tried without data."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    inputs = make_inputs(spec, dtype, torch.device("meta"), 0)
    item = run(Pass("", module.to("meta").eval(), inputs, proposed="verify.input"), 0)
    return "" if "meta" in item.undone else item.undone.partition(". Its input was")[0]
