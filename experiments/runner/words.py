"""Names of metrics, evaluations, arms and solver settings, in words."""

from __future__ import annotations

import re

__all__ = ["arm_words", "evaluation_words", "metric_words", "setting_words"]

METRICS = {  # by the start of their name
    "classifier_frechet": "Fréchet distance",
    "k_0.001": "K(0.001)",
    "largest_k": "largest K",
    "early_mean": "mean early K",
    "early_max": "largest early K",
    "d_0.001": "derivative at t = 0.001",
    "exponent": "exponent of t",
    "growth": "growth of the derivative from t = 0.1 to 0.001",
    "early_noise": "variance of the gradient, t < 0.1",
    "early": "error, t < 0.1",
    "noise_ratio": "variance for t < 0.1 over that above",
    "mean": "negative log-likelihood",
    "evaluations": "evaluations",
    "crossing_0.01": "step across t = 0.01",
    "error": "error",
    "backward": "distance at the end over the start",
    "x sample": "change of samples (x perturbed)",
    "condition sample": "change of samples (condition perturbed)",
    "features sample": "change of samples (embedding perturbed)",
    "x prediction": "change of predictions (x perturbed)",
    "condition prediction": "change of predictions (condition perturbed)",
    "features prediction": "change of predictions (embedding perturbed)",
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
ARMS = {  # whose own names are too short
    "smooth-low": "smooth time, embedding x 0.1",
    "smooth-penalty": "smooth time, penalty 1e-4",
    "smooth-start": "smooth start",
    "low": "sinusoids x 0.1",
    "fourier": "Fourier",
    "fourier-low": "Fourier x 0.1",
    "fourier-lowest": "Fourier x 0.02",
    "table": "learned table",
    "lipschitz-1e-5": "penalty 1e-5",
    "lipschitz-1e-4": "penalty 1e-4",
    "lipschitz-1e-3": "penalty 1e-3",
    "log-snr": "told log-SNR",
    "sigma": "told sigma",
    "edm": "told ln(sigma/alpha)/4",
    "score": "score, unweighted",
    "score-sigma2": "score, sigma^2-weighted",
    "shared-noise": "shared noise level",
    "no-time": "told no time",
    "velocity": "velocity prediction",
    "data": "data prediction",
    "soft-truncation": "soft truncation",
    "sigma-floor": "sigma floor",
}
SAMPLERS = {"ddim": "DDIM", "dpmpp": "DPM-Solver++", "ancestral": "ancestral"}
MEASURES = {  # evaluations that are no samples
    "lipschitz": "",
    "heldout": "held-out data",
    "likelihood": "held-out data",
    "history": "last quarter of training",
    "steps": "",
    "neighbours": "",
    "sensitivity": "",
    "adaptive": "dopri5, tolerance 1e-3",
    "adaptive-loose": "dopri5, tolerance 1e-2",
}
ENDINGS = {"denoise": "denoised", "guided": "guidance 2", "super": "from smaller images"}
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
    name = arm.removesuffix("-etsdm")
    shared = " + E-TSDM" if name != arm else ""
    return ARMS.get(name, "E-TSDM" if name == "etsdm" else name) + shared


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


def evaluation_words(names: str) -> str:
    """How samples were made, or what was measured on; of several, with commas, all of them.

    `ddim-10, ddim-20, dpmpp-time-10` becomes "DDIM with 10 and 20 steps, DPM-Solver++ with 10
    steps equal in time".
    """
    steps: dict[tuple[str, str], list[str]] = {}
    for name in names.split(", "):
        sampler = re.fullmatch(r"(ddim|dpmpp|ancestral)(-time)?-(\d+)(?:-(.+))?", name)
        if sampler is None:
            steps.setdefault((MEASURES.get(name, name), ""), [])
            continue
        kind, even, number, ending = sampler.groups()
        after = " equal in time" if even else ""
        if ending:
            after += f", {ENDINGS.get(ending) or f'to t = {float(ending):g}'}"
        steps.setdefault((SAMPLERS[kind], after), []).append(number)
    told = []
    for (head, after), numbers in steps.items():
        if numbers:
            listed = " and ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))
            head = f"{head} with {listed} steps{after}"
        told += [head] if head else []
    return "; ".join(told)
