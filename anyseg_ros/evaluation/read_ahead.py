"""Iterate on a thread, some items ahead of who takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], capacity: int) -> Generator[T, None, None]:
    """The same items, taken from ``items`` on a thread of its own.

    An exception of ``items`` is raised here, after the items before it. The thread ends with the
    iterator.

    Args:
        capacity: items that wait at most.
    """
    ahead: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(capacity)
    ended = threading.Event()

    def put(item: T | None, error: BaseException | None = None, last: bool = False) -> None:
        while not ended.is_set():
            try:
                ahead.put((item, error, last), timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                if ended.is_set():
                    return
                put(item)
        except BaseException as error:  # whatever it is, who takes the items must not wait for ever
            put(None, error)
        else:
            put(None, last=True)

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ahead.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]  # None only with an error or at the end
    finally:
        ended.set()
        thread.join()
