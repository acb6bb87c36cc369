"""Pure functions on arrays, without Flax: every fast form beside its definition."""
