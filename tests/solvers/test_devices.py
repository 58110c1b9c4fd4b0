"""Every method on a device that is not the host and has no float64 (`pretended`)."""

from functools import partial

import numpy as np
import pytest
import torch
from pretended import DEVICE, pretending
from problems import RICCATI, column

from solvers import MethodInfo, methods, odeint, sdeint

OWN = [info for info in methods() if info.source == "solvers"]
FOREIGN = [info for info in methods() if info.source != "solvers"]
Y0 = [[0.3, 0.5], [0.4, 0.2], [0.25, 0.6]]


def solve(info: MethodInfo, y0: torch.Tensor):
    """All that touches the state: two steps or control, a jump, points on the way, arguments."""
    how = {"rtol": 1e-3, "atol": 1e-3} if info.adaptive else {"grid": np.linspace(0, 1, 5)}
    factor = torch.ones(3, 1).to(y0.device)
    common = {"method": info.name, "trajectory": [0.4, 1.0], "args": (factor,), **how}
    if info.kind == "sde":
        return sdeint(
            lambda t, y, f: -f * y, lambda t: 0.1 + t, y0, 0.0, 1.0, seeds=[1, 2, 3],
            breaks=(0.5,), **common,
        )  # fmt: skip
    return odeint(lambda t, y, f: f * RICCATI.field(t, y), y0, 0.0, 1.0, breaks=(0.5,), **common)


@pytest.mark.parametrize("info", OWN, ids=lambda info: info.name)
def test_the_same_on_a_device_without_float64(info: MethodInfo) -> None:
    here = solve(info, torch.tensor(Y0))
    with pretending() as device:
        there = solve(info, torch.tensor(Y0, device=device))
        assert there.y.device == device
        y, states = there.y.cpu(), there.trajectory.cpu()
    np.testing.assert_array_equal(there.t, here.t)
    assert there.log.steps.tolist() == here.log.steps.tolist()
    # The same operations in the same order; `adams` sums in float64 on the host alone, and
    # float32 knows numbers below 1 to 6e-8.
    atol = 1e-6 if info.name == "adams" else 0
    torch.testing.assert_close(y, here.y, rtol=0, atol=atol)
    torch.testing.assert_close(states, here.trajectory, rtol=0, atol=atol)


@pytest.mark.parametrize("method", ["dopri5", "stochastic-heun"])
def test_failures_on_a_device(method: str) -> None:
    """A sample that breaks leaves the batch; its state, from the device, is in the result."""
    with pretending() as device:
        y0 = torch.tensor([[1.0], [-1.0], [2.0]], device=device)
        if method == "dopri5":
            found = odeint(lambda t, y: -y.sqrt(), y0, 0.0, 1.0, on_failure="return")
        else:
            found = sdeint(
                lambda t, y: -y.sqrt(), lambda t, y: 0.1 * column(t, y) * y, y0, 0.0, 1.0,
                method=method, noise="diagonal", on_failure="return", dt=0.1,
            )  # fmt: skip
        assert found.ok.tolist() == [True, False, True]
        assert found.y.device == device


@pytest.mark.parametrize("info", FOREIGN, ids=lambda info: info.name)
def test_methods_with_float64_times_on_the_device_say_so(info: MethodInfo) -> None:
    with pretending() as device:
        y0 = torch.tensor(Y0, device=device)
        how = {} if info.adaptive else {"dt": 0.1}
        work = partial(odeint, lambda t, y: -y)
        if info.kind == "sde":
            work, how = partial(sdeint, lambda t, y: -y, lambda t: 1.0), {"dt": 0.1}
        with pytest.raises(ValueError, match=f"float64 times.*{DEVICE} lacks; take one of our"):
            work(y0, 0, 1, method=info.name, **how)
