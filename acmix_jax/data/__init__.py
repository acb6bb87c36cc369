"""Reads data sets and makes batches of NumPy arrays."""
