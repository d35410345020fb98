"""Measurements that take long; see README.md."""

import sys
from pathlib import Path

# They call stacks by the checkout's own client, too, which isn't installed with the rest.
sys.path.append(str(Path(__file__).parents[1] / "clients" / "python"))
