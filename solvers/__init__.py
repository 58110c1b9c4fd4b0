"""Batched ODE and SDE integration with per-sample step control and a step log.

    from solvers import odeint

    solution = odeint(lambda t, y: -y, torch.ones(64, 2), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    solution.y                       # (64, 2), at t = 1 exactly
    print(solution.log.summary())

The equations are those of the modules: `tableau` and `runge_kutta` (methods), `controller` (step
sizes), `loop` (break points, statuses), `dense` (between the steps), `log` (what was done).
"""

from .controller import PI, PID, Controller, ErrorNorm, I
from .log import Status, StepLog
from .ode import odeint
from .registry import Measure, MethodInfo, methods
from .solution import Solution, SolverError

__all__ = [
    "PI",
    "PID",
    "Controller",
    "ErrorNorm",
    "I",
    "Measure",
    "MethodInfo",
    "Solution",
    "SolverError",
    "Status",
    "StepLog",
    "methods",
    "odeint",
]
