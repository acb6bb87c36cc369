"""The one training loop and what it is made of: set-up, step, state, optimizer, evaluation."""
