"""The training loop and its parts: set-up, step, state, optimizer, evaluation."""
