"""Analyses of trained networks: learned weights, path norms, curves, cost."""
