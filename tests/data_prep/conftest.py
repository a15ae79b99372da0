"""Preparation as on a busy machine."""

from tests.one_thread import one_thread

__all__ = ["one_thread"]
