"""``python -m training.simulation``."""

import sys

from training.simulation.cli import main

if __name__ == "__main__":
    sys.exit(main())
