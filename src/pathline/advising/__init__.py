"""Which method and which gradient suit a field: they are tried on it."""

from __future__ import annotations

from pathline.advising.advice import Advice, Facts, Trial
from pathline.advising.trying import advise

__all__ = ["Advice", "Facts", "Trial", "advise"]
