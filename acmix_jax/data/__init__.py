"""From files to batches of NumPy arrays."""
