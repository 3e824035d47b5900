"""``python -m kevolve_core.cli``."""

from kevolve_core.cli import main

if __name__ == "__main__":
    main()
