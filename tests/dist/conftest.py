"""Toy stages and local steps are shared with tests/runtime."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))
