"""Continuous-time SDE/ODE research framework for diffusion models near zero noise."""

__version__ = "0.1.0"
