"""Flax modules; they hold parameters and leave the arithmetic to ops."""
