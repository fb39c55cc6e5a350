"""Measures the artifact cache against floors in the same run; ``python -m benchmarks``."""

import sys
from pathlib import Path

# ``python -m`` looks into the working folder first. What is to be measured is the package as it
# was installed; the checkout counts where none is.
_HERE = str(Path(__file__).resolve().parent.parent)
sys.path[:] = [entry for entry in sys.path if entry not in ("", _HERE)] + [_HERE]
