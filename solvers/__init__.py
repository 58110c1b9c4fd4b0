"""Batched ODE and SDE integration with per-sample step control and a step log.

    from solvers import odeint

    solution = odeint(lambda t, y: -y, torch.ones(64, 2), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    solution.y                       # (64, 2), at t = 1 exactly
    print(solution.log.summary())

The equations are those of the modules: `tableau` and `runge_kutta`, `newton`, `multistep`, `adams`
and `adams_forms` (methods), `controller` (step sizes), `route`, `loop` and `lockstep` (break
points, statuses), `dense` (between the steps), `log` (what was done), and for stochastic equations
`sde`, `sde_steps`, `brownian` and `noise`.
"""

from .adams import Adams, adams_weights
from .adams_forms import TwoForms
from .brownian import Brownian, BrownianPath
from .controller import PI, PID, Controller, ErrorNorm, I
from .log import Status, StepLog
from .multistep import Multistep
from .noise import NoiseSource, sample_seeds
from .ode import odeint
from .registry import Gauge, Measure, MethodInfo, methods
from .sde import sdeint
from .solution import Solution, SolverError

__all__ = [
    "PI",
    "PID",
    "Adams",
    "Brownian",
    "BrownianPath",
    "Controller",
    "ErrorNorm",
    "Gauge",
    "I",
    "Measure",
    "MethodInfo",
    "Multistep",
    "NoiseSource",
    "Solution",
    "SolverError",
    "Status",
    "StepLog",
    "TwoForms",
    "adams_weights",
    "methods",
    "odeint",
    "sample_seeds",
    "sdeint",
]
