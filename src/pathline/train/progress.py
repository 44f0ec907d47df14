"""A live line in a terminal or a notebook; nothing at all when the output is piped."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Progress", "clock"]

REFRESH_SECONDS = 0.12


def clock(seconds: float) -> str:
    """``"1:02:03"`` or ``"2:03"``."""
    whole = int(seconds + 0.5)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Progress:
    """The line of one fit: steps, loss, rate, field evaluations and the time left."""

    def __init__(self, name: str, total: int, *, start: int = 0, quiet: bool = False) -> None:
        self._name, self._total, self._start = name, total, start
        self._began = self._shown = time.monotonic()
        self._live: Any = None
        self._notebook: Any = None
        self._quiet = quiet

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        if _in_notebook():
            from IPython.display import display

            self._notebook = display({"text/plain": f"{self._name}: starting"}, raw=True, display_id=True)
        elif sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=False)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    @property
    def visible(self) -> bool:
        """Whether anything is shown at all."""
        return self._live is not None or self._notebook is not None

    def update(self, done: int, row: dict[str, float], *, force: bool = False) -> None:
        """Show the state after ``done`` steps; calls in quick succession show nothing."""
        if not self.visible:
            return
        now = time.monotonic()
        if not force and now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        line = self.line(done, row, now - self._began)
        if self._notebook is not None:
            self._notebook.update({"text/plain": line}, raw=True)
        else:
            self._live.update(_rich_line(line, done / max(self._total, 1)), refresh=True)

    def line(self, done: int, row: dict[str, float], elapsed: float) -> str:
        """The text of the line."""
        rate = (done - self._start) / max(elapsed, 1e-9)
        parts = [f"{self._name}  {done}/{self._total}", f"loss {row.get('loss', float('nan')):.4g}"]
        if rate > 0.0:
            parts.append(f"{rate:.0f} steps/s" if rate >= 10 else f"{rate:.2g} steps/s")
        if "evaluations" in row:
            forward, backward = row["evaluations"], row.get("backward_evaluations", float("nan"))
            both = f"{forward:.0f}" if backward != backward else f"{forward:.0f}+{backward:.0f}"
            parts.append(f"{both} evaluations/step")
        if rate > 0.0 and done < self._total:
            parts.append(f"{clock((self._total - done) / rate)} left")
        return "  ".join(parts)


def _rich_line(text: str, share: float) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_row(ProgressBar(total=1.0, completed=share, width=24), text)
    return grid


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    current = shell.get_ipython() if shell is not None else None
    return current is not None and type(current).__name__ == "ZMQInteractiveShell"
