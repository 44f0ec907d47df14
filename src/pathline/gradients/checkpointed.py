"""The exact discrete gradient in the memory of states: every step is made twice, or a few times more in less memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Kept, move_end, move_start
from pathline.gradients.inputs import transforming
from pathline.gradients.recompute import prepare
from pathline.gradients.schedules import Binomial, Every, Schedule
from pathline.gradients.steplog import State, StepLog
from pathline.gradients.sweep import Solve, Sweep
from pathline.loop import Problem


@dataclass(frozen=True)
class Checkpointed:
    """Keep states of the accepted steps; the backward pass makes each step again and differentiates it.

    Exact to rounding, like `Backprop`. What is kept, for n steps with states of s bytes (and what the method carries
    from step to step, such as a slope):

    =================  ==========================  ====================================================
    ``schedule``       memory                      steps made again
    =================  ==========================  ====================================================
    ``"all"``          n s                         n
    k                  (n / k + k) s               2 n
    ``"logarithmic"``  ``states`` s, ``memory``    (r + 1) n at most, where ``C(states + 1 + r, r) >= n``
    =================  ==========================  ====================================================

    and beside it 16 bytes a step (1 kB with one clock a sample; half of that with "all"), the recording of one step,
    and the rows that were asked for. With 400 states 80 000 steps are made at most three times more, 10 million four
    times. Second derivatives and torch.func transforms record the whole solve where not all states were kept. Of a
    field that draws random numbers the state of the generators (5 kB) is kept after every rejected step, and with
    events at every step. Each stretch between two events has its own budget. *Stable*; schedules *maturing*.

    Args:
        schedule: "all" keeps every state, a number k every k-th one; "logarithmic" keeps as many as ``states`` or
            ``memory`` allows, placed online such that few steps are made again.
        states: of the logarithmic schedule, how many beside the start.
        memory: of the logarithmic schedule, how many bytes; in place of ``states``.

    Raises:
        ValueError: another schedule; no budget for the logarithmic one, or one for the others.

    Example:
        >>> import torch, pathline
        >>> y0 = torch.ones(2, requires_grad=True)
        >>> gradient = pathline.Checkpointed(schedule="logarithmic", states=10)
        >>> solution = pathline.solve(lambda t, y: -y, y0, (0.0, 1.0), method="rk4", dt=0.01, gradient=gradient)
        >>> solution.y1.sum().backward()
        >>> y0.grad
        tensor([0.3679, 0.3679])
        >>> solution.stats.backward_steps, solution.stats.backward_remade
        (100, 143)

    References:
        Gholami, Keutzer, Biros (2019), ANODE: Unconditionally accurate memory-efficient gradients for neural ODEs.
        Wang, Moin, Iaccarino (2009), Minimal repetition dynamic checkpointing algorithm for unsteady adjoint
        calculation.
    """

    schedule: str | int = "all"
    states: int | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        schedule = self.schedule
        if isinstance(schedule, bool) or (isinstance(schedule, int) and schedule < 1):
            raise ValueError(f"`schedule` is a number of steps >= 1, or a name; it is {schedule!r}.")
        if not isinstance(schedule, int) and schedule not in ("all", "logarithmic"):
            raise ValueError(f'`schedule` is "all", "logarithmic", or a number of steps; it is {schedule!r}.')
        given = [name for name in ("states", "memory") if getattr(self, name) is not None]
        if schedule != "logarithmic" and given:
            raise ValueError(
                f'`{given[0]}` is the budget of schedule="logarithmic"; this one is {schedule!r}. Leave it out.'
            )
        if schedule == "logarithmic" and len(given) != 1:
            raise ValueError(
                'schedule="logarithmic" needs a budget, either `states`, how many, or `memory`, in bytes; '
                f"{'both were' if given else 'none was'} given. Set memory=64e6, for example."
            )
        for name in given:
            value = getattr(self, name)
            whole = name == "memory" or isinstance(value, int)
            if isinstance(value, bool) or not isinstance(value, int | float) or not whole or not 1 <= value < 2**63:
                raise ValueError(f"`{name}` is a {'whole ' if name == 'states' else ''}number >= 1; it is {value!r}.")

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve under one autograd function."""
        if problem.at_rest or not torch.is_grad_enabled():
            return Backprop().solve(problem, y0, t, args, field)
        recipe = prepare(replace(problem, term=problem.term.exactly()), y0, args, field)
        if self.schedule == "all":
            solve = Solve(recipe)
        else:
            # Under a transform states would belong to it; the whole solve is made again instead.
            schedule = None if transforming() else self._schedule()
            solve = _Scheduled(recipe, StepLog(recipe.problem, schedule, recipe.draws))
        return move_end(problem, solve.apply(move_start(problem, y0, t, args), t), t, args)

    def _schedule(self) -> Schedule:
        return Every(self.schedule) if isinstance(self.schedule, int) else Binomial(self.states, self.memory)


class _Scheduled(Solve):
    """A solve whose log keeps some states."""

    def source(self, sweep: Sweep) -> _Remade:
        assert self.log is not None
        assert self.log.schedule is not None
        return _Remade(sweep, self.log.schedule)


class _Remade:
    """States made again from those that were kept.

    The kept ones are taken out of the schedule, and given up when they have served; a second backward pass begins with
    the start alone.
    """

    def __init__(self, sweep: Sweep, schedule: Schedule) -> None:
        self.sweep, self.schedule = sweep, schedule
        self.held: list[tuple[int, State]] = [(0, sweep.start())]
        self.held += sorted(schedule.kept.items(), key=lambda pair: pair[0])
        schedule.kept.clear()

    def before(self, k: int) -> State:
        """The state before step ``k``, from the nearest one at hand."""
        held = self.held
        while held[-1][0] > k:
            held.pop()
        place, state = held[-1]
        if state.samples is not None:
            held[-1] = place, state = place, self._filled(state, state.samples)
        while place < k:
            goal = self.schedule.halt(place, k, len(held))
            for i in range(place, goal):
                state = self.sweep.advanced(i, state)
            place = goal
            held.append((place, state))
        return state

    def _filled(self, state: State, samples: Tensor) -> State:
        """The state of all samples, with zeros for those that had left."""

        def whole(x: Tensor) -> Tensor:
            return x.new_zeros(len(self.sweep.y0), *x.shape[1:]).index_copy(0, samples, x)

        return State(whole(state.y), [whole(x) for x in state.carry], state.random)
