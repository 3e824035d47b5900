"""A backend for an accelerator that does not exist: read machine, compiler, renderer, runner, plugin."""
