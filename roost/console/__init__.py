"""The pages that people look at. They need nothing from elsewhere, so they work in a closed network.

`/docs` is one file. `/demo` is a page with a style and scripts, of which `client.js` is the TypeScript client as one
module (`npm run bundle` in clients/js makes it).
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
_HTML, _CSS, _SCRIPT = (f"text/{kind}; charset=utf-8".encode() for kind in ("html", "css", "javascript"))

PAGES: tuple[tuple[str, bytes, bytes], ...] = (
    ("/docs", _HTML, (_HERE / "docs.html").read_bytes()),
    ("/demo", _HTML, (_HERE / "demo.html").read_bytes()),
    ("/demo/demo.css", _CSS, (_HERE / "demo.css").read_bytes()),
    ("/demo/demo.js", _SCRIPT, (_HERE / "demo.js").read_bytes()),
    ("/demo/screen.js", _SCRIPT, (_HERE / "screen.js").read_bytes()),
    ("/demo/client.js", _SCRIPT, (_HERE / "client.js").read_bytes()),
)
"""Path, media type and content of all that is served as it is, to anybody."""
