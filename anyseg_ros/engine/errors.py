"""Errors of models and engines."""


class ModelError(RuntimeError):
    """A model that cannot be used; the message names the file and what is wrong with it."""


class EngineError(RuntimeError):
    """An engine that is not installed, or cannot run on this machine."""
