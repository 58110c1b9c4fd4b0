"""Names of metrics, evaluations, arms and solver settings, in words."""

from __future__ import annotations

import re

__all__ = ["arm_words", "metric_words", "setting_words"]

METRICS = {  # by the start of their name
    "classifier_frechet": "Fréchet distance",
    "k_0.001": "K(0.001)",
    "largest_k": "largest K",
    "early_mean": "mean early K",
    "early_max": "largest early K",
    "growth": "log growth of the derivative",
    "early_noise": "variance of the gradient, t < 0.1",
    "early": "error, t < 0.1",
    "noise_ratio": "log ratio of variances",
    "mean": "negative log-likelihood",
    "evaluations": "evaluations",
    "smallest": "smallest step",
    "backward": "log separation",
    "x sample": "change of samples, x perturbed",
    "condition sample": "change of samples, condition perturbed",
    "features sample": "change of samples, embedding perturbed",
    "x prediction": "change of predictions, x perturbed",
    "condition prediction": "change of predictions, condition perturbed",
    "features prediction": "change of predictions, embedding perturbed",
}
EXACT = {  # an exact model's data, and what may follow
    "smooth": "smooth data",
    "mixture": "narrow mixture",
    "finite": "finite data",
    "": "",
    "-etsdm": " + E-TSDM",
    "-smooth-start": ", smooth start",
    "-trig": ", trig schedule",
}
CLOCKS = {
    "x/time": "clock time",
    "x/log-snr": "clock log-SNR",
    "x/alpha/noise-ratio": "clock sigma/alpha",
}


def metric_words(metric: str) -> str:
    """A metric in words; its own name where there are none."""
    fits = [start for start in METRICS if metric.startswith(start)]
    return METRICS[max(fits, key=len)] if fits else metric


def arm_words(arm: str) -> str:
    """An arm as figures call it."""
    if re.fullmatch(r"smooth-[0-9.]+", arm):
        return f"smooth time, s = {arm.removeprefix('smooth-')}"
    if re.fullmatch(r"power-[0-9.]+", arm):
        return f"smooth time, power {arm.removeprefix('power-')}"
    if arm.startswith("equalised"):
        return f"equalised, s = {arm.partition('-')[2] or '0.1'}"
    if exact := re.fullmatch(r"exact-(smooth|mixture|finite)(|-etsdm|-smooth-start|-trig)", arm):
        return EXACT[exact[1]] + EXACT[exact[2]]
    if grid := re.fullmatch(r"n(\d+)-t([0-9.]+)", arm):
        return f"n = {grid[1]}, t~ = {grid[2]}"
    return re.sub(r"\betsdm\b", "E-TSDM", arm.replace("-etsdm", " + E-TSDM"))


def setting_words(name: str) -> str:
    """What follows the metric in the ID of a variant of a solver, in words; "" where it is none.

    `evaluations dopri5 x/time 0.001 1e-05 pi blind` becomes "dopri5, clock time, tol 0.001,
    to t = 1e-05, not told".
    """
    parts = name.split()[1:]
    if len(parts) < 5:
        return ""
    solver, chart, tolerance, end, control = parts[:5]
    told = [solver, CLOCKS.get(chart, ""), f"tol {tolerance}", f"to t = {end}"]
    told += [] if control == "pi" else [f"{control} control"]
    told += ["not told"] if "blind" in parts else []
    return ", ".join(piece for piece in told if piece)
