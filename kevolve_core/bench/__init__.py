"""Public benchmarks against this installation; problems are read from the user's checkout, never shipped."""
