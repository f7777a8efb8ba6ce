"""`python -m router` and the console script."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line, or answer a shell that asks what may follow: at once, without loading any command."""
    if "_DICOM_ROUTER_COMPLETE" in os.environ:
        from router.cli.completion import complete

        complete()
    from router.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
