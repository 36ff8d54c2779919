"""`python -m toolenv` is the command `toolenv`."""

from __future__ import annotations

from toolenv.cli import main

if __name__ == "__main__":
    main()
