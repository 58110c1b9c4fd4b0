"""The progress bar: what it shows, and that it is silent where nobody looks."""

import pytest

from sdeflow.training.progress import ProgressBar


def test_shows_steps_rate_loss_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(10, done=2, show=True) as bar:
        bar.update(10, 0.12345, last=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    for part in ("10/10", "steps/s", "loss 0.1235", "left"):
        assert part in shown.err


@pytest.mark.parametrize("show", [False, None])
def test_is_silent_without_a_terminal(
    capsys: pytest.CaptureFixture[str], show: bool | None
) -> None:
    with ProgressBar(10, show=show) as bar:
        bar.update(10, 0.1, last=True)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
