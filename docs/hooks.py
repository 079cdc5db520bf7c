"""What mkdocs does beside its plugins: put the help of each command where a page asks for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `<!-- help: -m recipes.tune -->` by what that command prints with --help.

    Args:
      markdown: of a page.

    Raises:
      subprocess.CalledProcessError: the command failed.
    """

    def text_of(found: re.Match[str]) -> str:
        command = [sys.executable, *found[1].split(), "--help"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"}
        )
        return f"```text\n{done.stdout.rstrip()}\n```"

    return re.sub(r"<!-- help: (.+?) -->", text_of, markdown)
