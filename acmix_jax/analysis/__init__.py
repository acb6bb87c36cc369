"""What a trained network shows of itself, and what it costs."""
