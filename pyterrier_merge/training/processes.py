"""Several processes that train one model together, started by ``accelerate launch`` or ``torchrun``."""

from __future__ import annotations

import os
from typing import TypeVar

Value = TypeVar("Value")


def count_processes() -> int:
    """Return the number of processes that train together; 1 unless several were started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_main() -> bool:
    """Return whether this process is the one that writes files."""
    return count_processes() == 1 or os.environ.get("RANK", "0") == "0"


def meet() -> None:
    """Wait until all processes have reached this call."""
    if count_processes() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def agreed(value: Value) -> Value:
    """Return the main process's value in all processes. All of them must call this."""
    if count_processes() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    box = [value]
    broadcast_object_list(box)
    return box[0]
