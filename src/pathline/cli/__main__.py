"""``python -m pathline.cli``, also for ``torchrun -m`` and ``fabric run``."""

from __future__ import annotations

import sys

from pathline.cli import main

if __name__ == "__main__":
    sys.exit(main())
