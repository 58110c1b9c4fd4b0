"""The first signal asks, the second insists; what a launcher passes on is no second one."""

import os
import signal

import pytest
from reliability.faults import forked

from sdeflow.training import interrupt
from sdeflow.training.interrupt import StopRequest

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)


@pytest.mark.parametrize("first", BOTH)
def test_after_the_first_signal_the_kernel_acts_itself(first: signal.Signals) -> None:
    """A handler of Python would wait for the end of a long operation of torch."""
    before = [signal.getsignal(number) for number in BOTH]
    with StopRequest() as stop:
        assert stop.signal is None
        signal.raise_signal(first)
        assert stop.signal == first
        assert [signal.getsignal(number) for number in BOTH] == [signal.SIG_DFL] * 2
    assert [signal.getsignal(number) for number in BOTH] == before


def test_a_launchers_echo_is_no_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # torchrun's
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGINT


def test_later_signals_under_a_launcher_insist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(interrupt, "ECHO", 0.0)

    def insist() -> None:
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    assert forked(insist) == -signal.SIGTERM
