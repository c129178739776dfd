"""The command `glm4v`. The commands are in `cli.app`; this module starts it and prints errors in plain words."""

from __future__ import annotations

import sys

from glm4v_core.errors import Glm4vError

FAILED = 2
"""Exit status when nothing usable came out."""


def main() -> None:
    """Run the command line."""
    try:
        from glm4v_core.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"The command line needs {error.name}. Hint: pip install 'glm4v[cli]'")
    try:
        app()
    except Glm4vError as error:
        sys.stderr.write(f"Error ({error.code}): {error.message}\nHint: {error.hint}\n")
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
