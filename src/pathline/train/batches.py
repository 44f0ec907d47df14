"""Where a fit's batches come from, and how a resumed fit finds its place among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batches", "Source", "minibatches"]

Batches = Callable[[int], Any] | Iterable[Any] | None
"""None for the full batch, a function of the step, or an iterable that is gone through again and again."""


def minibatches(
    *tensors: Tensor, size: int, seed: int = 0, drop_last: bool = False
) -> Callable[[int], tuple[Tensor, ...]]:
    """Shuffled batches as a pure function of the step: every epoch has its own permutation.

    Since nothing but ``(seed, step)`` decides a batch, a resumed fit gets the batches it would have had.
    Among several processes each batch is dealt out by rank.

    Args:
        tensors: Data with the samples in dimension 0, all of the same length.
        size: Samples in a batch, over all processes.
        seed: Of the permutations.
        drop_last: Leave out the smaller batch at the end of an epoch.

    Returns:
        A function that takes the step and returns one tensor for each of ``tensors``.

    Raises:
        ValueError: For lengths that differ, or a size that yields no batch.

    Example:
        >>> batch = minibatches(torch.arange(10.0), size=4)
        >>> [len(batch(step)[0]) for step in range(3)]
        [4, 4, 2]
    """
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) != 1:
        raise ValueError(f"`minibatches` takes tensors with equally many rows; they have {sorted(lengths)}.")
    count = lengths.pop()
    if not 1 <= size <= count:
        raise ValueError(f"`size` has to lie between 1 and the number of samples, {count}; {size} came.")
    per_epoch = count // size if drop_last else -(-count // size)

    def batch(step: int) -> tuple[Tensor, ...]:
        epoch, position = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)[position * size : (position + 1) * size]
        rank, world = _place()
        rows = order[rank::world]
        return tuple(tensor[rows.to(tensor.device)] for tensor in tensors)

    return batch


def _place() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class Source:
    """Gives the batch of each step, and its place for the checkpoint.

    An iterable draws from a stream of random numbers of its own, so that going through an epoch again up to the
    stored position gives the same batches whatever the model drew in between.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._iterates = batches is not None and not callable(batches)
        self._iterator: Iterator[Any] | None = None
        self._position = 0
        self._generators: list[torch.Generator] = _generators(batches) if self._iterates else []
        self._epoch_states: list[Tensor] = []
        self._stream = torch.get_rng_state()
        if self._iterates:
            seed = int(torch.randint(2**62, ()))
            self._stream = torch.Generator().manual_seed(seed).get_state()
        self._epoch_stream = self._stream

    def __call__(self, step: int) -> Any:
        if self._batches is None:
            return None
        if not self._iterates:
            return self._batches(step)  # pyright: ignore[reportCallIssue]
        with self._own_stream():
            return self._next(step)

    def _next(self, step: int) -> Any:
        for _ in range(2):
            if self._iterator is None:
                self._begin_epoch()
            try:
                batch = next(self._iterator)  # pyright: ignore[reportArgumentType]
            except StopIteration:
                if self._position == 0 or iter(self._batches) is self._batches:  # pyright: ignore[reportArgumentType, reportCallIssue]
                    break
                self._iterator = None
                continue
            self._position += 1
            return batch
        raise ValueError(
            f"`batches` ran out at step {step}, after {self._position} batches. Pass something that can be gone "
            "through again (a DataLoader, a list), or a function of the step."
        )

    def _begin_epoch(self) -> None:
        self._epoch_stream = torch.get_rng_state()
        self._epoch_states = [generator.get_state() for generator in self._generators]
        self._iterator = iter(self._batches)  # pyright: ignore[reportArgumentType, reportCallIssue]
        self._position = 0

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        outside = torch.get_rng_state()
        torch.set_rng_state(self._stream)
        try:
            yield
        finally:
            self._stream = torch.get_rng_state()
            torch.set_rng_state(outside)

    def state_dict(self) -> dict[str, Any]:
        """The beginning of the epoch and the place in it; empty where the step says all."""
        if not self._iterates:
            return {}
        started = self._iterator is not None
        return {
            "started": started,
            "position": self._position,
            "stream": self._epoch_stream if started else self._stream,
            "generators": list(self._epoch_states),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go through the epoch again, up to the stored place."""
        if not self._iterates or not state:
            return
        self._stream = state["stream"]
        self._iterator = None
        if not state["started"]:
            return
        for generator, kept in zip(self._generators, state["generators"], strict=True):
            generator.set_state(kept)
        with self._own_stream():
            self._begin_epoch()
            for step in range(state["position"]):
                self._next(step)


def _generators(batches: Any) -> list[torch.Generator]:
    owners = [batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)]
    owners.append(getattr(owners[2], "sampler", None))
    found: list[torch.Generator] = []
    for owner in owners:
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not other for other in found):
            found.append(generator)
    return found
