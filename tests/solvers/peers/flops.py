"""What a solver counts as work, and what torch executes: an oracle that knows nothing of the solver."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from problems import Problem
from solvers import Solver
from solvers.peers.network import network_for

# And what it leaves out: the same, in place.
COUNTS = flop_registry | {torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm]}


class Flops(TorchDispatchMode):
    """Counts in `total` what torch's FlopCounterMode would, of the thread that it is entered in.

    That one also keeps books by module, which fails where a library calls `torch.autograd.grad`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in COUNTS:
            self.total += COUNTS[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def counted_and_executed(problem: Problem, solver: Solver) -> tuple[float, float]:
    """Gradient equivalents of one solve: as the solver counts them, and by floating-point operations."""
    generator = torch.Generator().manual_seed(0)
    network = network_for(problem)
    with Flops() as gradient:
        loss = network.loss(network.model(network.inputs), network.targets)
        torch.autograd.grad(loss, network.parameters)
    work = problem.operator.work
    before = work.passes
    with Flops() as solving:
        state = solver.prepare(problem, generator)
        for _ in solver.iterates(problem, state, problem.columns(), generator):
            pass
    return work.equivalents(work.passes - before), solving.total / gradient.total
