"""A module together with the parameters it had: what a distribution refers to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class Captured:
    """A module as it is when captured, for a distribution that outlives the call that made it.

    Inside ``torch.func.functional_call`` a module has parameters for the time of the call alone. What is asked of it
    later is asked with those; a module that trains or moves to another dtype is followed, since its parameters stay
    the same tensors.

    Args:
        module: A module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._held: list[tuple[str, Any, str, Tensor]] = []
        # A plain walk: every distribution makes one, and `named_modules` takes several times as long.
        ahead, seen = [("module", module)], {id(module)}
        for path, part in ahead:
            for store in (part._parameters, part._buffers):
                self._held += [(f"{path}.{name}", store, name, x) for name, x in store.items() if x is not None]
            for name, child in part._modules.items():
                if child is not None and id(child) not in seen:
                    seen.add(id(child))
                    ahead.append((f"{path}.{name}", child))

    def __call__(self, do: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """``do(module, *args)``, with the parameters of the capture."""
        replaced = self._replaced()
        if not replaced:
            return do(self.module, *args, **options)
        # Every place of a tied tensor is in the list.
        return functional_call(_Asked(self.module), replaced, (do, *args), options, tie_weights=False)

    def _replaced(self) -> dict[str, Tensor]:
        """The captured tensors that the module no longer has."""
        return {path: tensor for path, store, name, tensor in self._held if _is_another(store.get(name), tensor)}


def _is_another(now: Tensor | None, held: Tensor) -> bool:
    if now is held:
        return False
    # A buffer becomes another object where its module moves to another dtype or device; a parameter does not.
    moved = now is not None and (now.dtype, now.device) != (held.dtype, held.device)
    return isinstance(held, nn.Parameter) or not moved


class _Asked(nn.Module):
    """Lets ``functional_call`` reach any method of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, do: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return do(self.module, *args, **options)
