"""Measurements of time: programs in turns, parts of one program, and the input pipeline."""
