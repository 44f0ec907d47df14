"""What comes in with a solve is looked into once, not at every evaluation of the field."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pathline.gradients.inputs import transforming

_SEEN: Any = WeakTensorKeyDictionary()


def first_sight(value: Any, question: Hashable) -> bool:
    """Whether a tensor comes with this question for the first time, as it is now.

    Looking into a tensor waits for its device, and a graph that is compiled or captured cannot wait: there the answer
    is no.
    """
    if torch.compiler.is_compiling() or not isinstance(value, Tensor) or value.is_meta or transforming():
        return False
    if value.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    version = 0 if value.is_inference() else value._version
    known = _SEEN.setdefault(value, {})
    if known.get(question) == version:
        return False
    known[question] = version
    return True
