"""The tests beside this file read `catalogue`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
