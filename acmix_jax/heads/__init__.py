"""From feature maps to what a task predicts."""
