"""Measurements of models and of solvers, on trained networks and on exact oracles alike."""
