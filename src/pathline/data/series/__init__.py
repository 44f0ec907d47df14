"""Irregular series: ragged storage, views, tables, batches."""

from __future__ import annotations

from pathline.data.series.curriculum import growing
from pathline.data.series.files import SeriesFile
from pathline.data.series.scaling import Standardization
from pathline.data.series.series import Series
from pathline.data.series.views import Padded, Union

__all__ = ["Padded", "Series", "SeriesFile", "Standardization", "Union", "growing"]
