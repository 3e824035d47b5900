"""The NVIDIA backend of Kevolve."""
