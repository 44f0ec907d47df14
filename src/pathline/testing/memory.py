"""How much memory tensors hold, counted rather than sampled."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class TensorMemory(TorchDispatchMode):
    """The bytes of live tensor storages made since this context was entered, and their peak.

    Every storage counts from the operation that makes it until it is freed, whoever holds it: the tape, a function's
    context, or a list (hooks on saved tensors see the tape only). Storages from before the context never count.

    Example:
        >>> with TensorMemory() as memory:
        ...     x = torch.zeros(1000)
        ...     y = x + 1.0
        ...     del x
        >>> memory.peak, memory.live
        (8000, 4000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation; storages among its inputs that are new here were made outside."""
        kwargs = kwargs or {}
        for storage in _storages((args, *kwargs.values())):
            self._meet(storage, size=0)
        result = func(*args, **kwargs)
        for storage in _storages(result):
            self._meet(storage, size=storage.nbytes())
        return result

    def _meet(self, storage: torch.UntypedStorage, size: int) -> None:
        key = id(storage)  # the Python object of a storage lives as long as the storage itself
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, lambda _: self._part(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _part(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.live -= size


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    """Storages of the tensors in the arguments or results of an operation: these nest in lists only."""
    if isinstance(values, torch.Tensor):
        yield values.untyped_storage()
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _storages(value)


def peak_memory(work: Callable[[], Any]) -> int:
    """The peak of live tensor storages during a call, minus those before it, in bytes.

    The result stays alive until the end of the call, as a caller would keep it.

    Example:
        >>> peak_memory(lambda: torch.zeros(10, dtype=torch.float64) + 1.0)
        160
    """
    with TensorMemory() as memory:
        work()
    return memory.peak
