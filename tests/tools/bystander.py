"""What hostile code may be after, as a process beside the interpreters: a file, a secret, listeners, and itself.

    bystander.py FOLDER ROOT

Standard library only, for it also runs in a container. It says a line of JSON, and another with the present state for
every line that it reads: all that hostile code must leave as it is, `connections` that reached a listener included.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from pathlib import Path

WRITABLE = ("/tmp", "/sandbox", "/dev/shm")


def main(folder: Path, root: int) -> None:
    folder.mkdir(exist_ok=True)
    secret = secrets.token_hex(16)
    canary = folder / "canary.py"
    canary.write_text(f"canary = {secret!r}\n")
    listener = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0" + secret)
    abstract.listen()
    port, inside = listener.getsockname()[1], root == 1  # in a container, all processes and folders are ours to watch
    say({"secret": secret, "canary": str(canary), "port": port, "victim": os.getpid(), "below": descendants(root)})
    connections = 0
    for _ in sys.stdin:
        connections += accepted(listener) + accepted(abstract)
        say(
            {
                "files": [[path.name, path.stat().st_mode, path.read_text()] for path in sorted(folder.iterdir())],
                "processes": descendants(root),
                "connections": connections,
                "free": [[vfs.f_bfree, vfs.f_ffree] for vfs in map(os.statvfs, WRITABLE)] if inside else [],
                "elsewhere": [sorted(os.listdir(path)) for path in WRITABLE] if inside else [],
            }
        )


def say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


def descendants(process: int) -> list[int]:
    """The processes below a process, a parent before its children; without those of Monty's pool, which come and go."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            if Path(f"/proc/{child}/comm").read_text() != "monty\n":
                found += [child, *descendants(child)]
    return found


def accepted(listener: socket.socket) -> int:
    listener.settimeout(0)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return 0
    return 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
