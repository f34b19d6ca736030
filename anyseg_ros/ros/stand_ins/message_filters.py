"""The classes of ``message_filters`` that this package builds on, for graphs without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class SimpleFilter:
    """Something that gives out messages: callbacks are registered, and called with each."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

    def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:  # noqa: N802
        """Call ``cb`` with each output, followed by ``args``; returns the number of the connection."""
        number = len(self.callbacks)
        self.callbacks[number] = (cb, args)
        return number

    def signalMessage(self, *msg: Any) -> None:  # noqa: N802
        """Give out messages to every callback."""
        for callback, args in self.callbacks.values():
            callback(*(msg + args))


class Subscriber(SimpleFilter):
    """A subscription as a filter; takes a node and what ``create_subscription`` takes, less the callback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.node = args[0]
        self.topic = args[2]
        kwargs.setdefault("qos_profile", 10)
        self.sub = self.node.create_subscription(*args[1:], self.callback, **kwargs)

    def callback(self, msg: Any) -> None:
        """Pass a message on."""
        self.signalMessage(msg)

    def getTopic(self) -> str:  # noqa: N802
        """The topic, as it was asked for."""
        return str(self.topic)
