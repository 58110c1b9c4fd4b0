"""Batched ODE and SDE integration with per-sample step control and a step log."""
