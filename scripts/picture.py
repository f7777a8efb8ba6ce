"""Draws docs/demo.svg: what `dicom-router demo` prints on a terminal, as it is."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
COLUMNS = 100


def main() -> None:
    """Run the demo and draw its output."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-m", "router", "demo"], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi("$ dicom-router demo\n\n" + done.stdout), soft_wrap=True)
    (ROOT / "docs").mkdir(exist_ok=True)
    picture = console.export_svg(title="dicom-router demo")
    # Whoever looks at it is not to be sent elsewhere for a font.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    picture = picture.replace("Fira Code", "DejaVu Sans Mono, Consolas, Menlo").replace(
        "https://www.textualize.io", "rich"
    )
    (ROOT / "docs" / "demo.svg").write_text(picture, "utf-8")


if __name__ == "__main__":
    main()
