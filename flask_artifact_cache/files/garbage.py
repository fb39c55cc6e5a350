"""Making many objects without the garbage collector looking through all others meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from running, for a second at the most.

    A scan and a batch of artifacts make many objects and no cycles. In a process with 200,000
    other objects the collector would look through all of them several times, which takes longer
    than the scan.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
