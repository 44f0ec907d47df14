"""Compiled steps: ``solve(..., compile=True)``."""

from __future__ import annotations

from pathline.compiled.choosing import compiled

__all__ = ["compiled"]
