"""Who acts in an environment, and what is recorded of it."""
