"""Agent-written Python, locked in: a supervisor that forks interpreters, and what runs inside one.

Standard library only, and no import of the rest of toolenv: the supervisor starts in milliseconds, and interpreters are
its forks. Hence the relative imports; the package is run from its own folder.
"""
