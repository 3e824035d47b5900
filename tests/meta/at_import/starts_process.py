"""Asks a tool for its version at its top."""

import subprocess
import sys

from kevolve_toy.plugin import kevolve_register

VERSION = subprocess.run([sys.executable, "-V"], capture_output=True, check=False).stdout

__all__ = ["VERSION", "kevolve_register"]
