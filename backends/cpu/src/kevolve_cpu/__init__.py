"""The CPU backend of Kevolve."""
