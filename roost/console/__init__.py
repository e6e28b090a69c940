"""The pages that people look at. Each is one file without external parts, so it works in a closed network."""

from __future__ import annotations

from pathlib import Path

PAGES: tuple[tuple[str, bytes], ...] = (("/docs", (Path(__file__).parent / "docs.html").read_bytes()),)
"""Path and HTML of every page."""
