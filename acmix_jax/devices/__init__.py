"""Meshes, shardings and processes; the only package that knows how many devices there are."""
