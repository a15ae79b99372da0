"""The progress bar that long work shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bar(*, quiet: bool = False) -> Progress:
    """A bar on stderr for a ``with`` block, gone when that ends; none where stderr is no terminal, or if ``quiet``."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=quiet or not console.is_terminal)
