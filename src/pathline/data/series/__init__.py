"""Irregular series: ragged storage, views, tables, batches.

Tables (``tables``, ``dates``), arrays and dicts (``arrays``, ``dicts``) are read as numbers (``converting``), and loose
rows become rows of series (``building``). A ``Series`` (``series``) is asked for some of its series and rows
(``choosing``, ``layout``), for another zero or unit of time (``clocks``), another scale (``scaling``), a rectangle
(``views``), a batch (``batches``, ``curriculum``) or a file (``files``, ``arrow``). ``ragged`` is the arithmetic of
rows, ``checking`` has the words for what is wrong.
"""

from __future__ import annotations

from pathline.data.series.curriculum import growing
from pathline.data.series.files import SeriesFile
from pathline.data.series.scaling import Standardization
from pathline.data.series.series import Series
from pathline.data.series.views import Padded, Union

__all__ = ["Padded", "Series", "SeriesFile", "Standardization", "Union", "growing"]
