"""A backend for an accelerator that does not exist: read machine, language, plugin."""
