"""The container, built and run as compose.yaml says: what it lets be done, and what not.

    python benchmarks/container.py

Needs Docker with its compose, the old or the new, and port 7000. CONTRIBUTING.md tells how the base is made
where no registry can be reached.
"""

from __future__ import annotations

import collections
import os
import secrets
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from machine import machine, parser_of, print_table

ROOT = Path(__file__).parents[1]
PHOTO = (ROOT / "examples" / "astronaut.jpg").read_bytes()
TOKEN = secrets.token_hex(16)
COMPOSE = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
DECOUPE = "/opt/decoupe/bin/decoupe"


def output(*command: str, given: bytes = b"", check: bool = True) -> bytes:
    """What a command writes to standard output and, where it may fail, to standard error."""
    errors = None if check else subprocess.STDOUT
    environment = {**os.environ, "DECOUPE_TOKEN": TOKEN}
    return subprocess.run(
        command, input=given, stdout=subprocess.PIPE, stderr=errors, check=check, cwd=ROOT, env=environment
    ).stdout


def said(*command: str, check: bool = True) -> str:
    """The same as text."""
    return output(*command, check=check).decode().strip()


def inside(container: str, script: str) -> str:
    """What a shell says in the container."""
    return said("docker", "exec", container, "sh", "-c", script, check=False)


def told(container: str, what: str) -> str:
    """A field that Docker knows of the container."""
    return said("docker", "inspect", "--format", "{{" + what + "}}", container)


def ask(token: str = TOKEN) -> httpx.Response:
    """One picture, cut."""
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post("http://127.0.0.1:7000/v1/cut", content=PHOTO, headers=headers, timeout=120)


def size(container: str) -> str:
    """Its image."""
    image = told(container, ".Image")
    return f"{int(said('docker', 'image', 'inspect', '--format', '{{.Size}}', image)) / 1e6:.0f} MB"


def untold(container: str) -> str:
    """Started without a token."""
    return said("docker", "run", "--rm", told(container, ".Image"), check=False)


def licences(container: str) -> str:
    """The licences that it carries."""
    return inside(container, "cd /opt/decoupe/lib/python3*/site-packages/decoupe-*/licenses && ls | xargs")


def identity(container: str) -> str:
    """Who it is."""
    status = dict(line.split(":\t", 1) for line in inside(container, "cat /proc/1/status").splitlines())
    kept = ", ".join(f"{key} {status[key]}" for key in ("CapBnd", "NoNewPrivs", "Seccomp"))
    return f"{inside(container, 'id -un')}; {kept}"


def writable(container: str) -> str:
    """Folders and files that it may write, but for devices and processes."""
    pruned = (
        "find / -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -writable ! -type l -print"
    )
    return ", ".join(inside(container, f"{pruned} 2>/dev/null").split())


def healthy(container: str) -> str:
    """What its health check says, in the end."""
    while (status := told(container, ".State.Health.Status")) == "starting":
        time.sleep(1)
    return status


def cut(container: str) -> str:
    """A picture, with a wrong token and with its own."""
    wrong, right = ask("x" * 32).status_code, ask()
    file = output("docker", "exec", "-i", container, DECOUPE, "cut", "-", "-o", "-", given=PHOTO)
    same = "the file that" if file == right.content else "another file than"
    return f"{wrong}; {right.status_code}, {same} decoupe cut writes"


def forks(container: str) -> str:
    """As many processes as it can start, and a picture meanwhile."""
    loop = "while sleep 5 > /dev/null 2>&1 & do n=$((n + 1)); done"
    count = inside(container, f"n=0; trap 'echo $n' EXIT; {loop}").split()[-1]
    status = ask().status_code
    time.sleep(6)
    return f"{count} more, then none; {status}, and {ask().status_code} afterwards"


def ended(container: str) -> str:
    """SIGTERM with sixteen pictures accepted."""
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(ask) for _ in range(16)]
        time.sleep(1)
        said("docker", "kill", "--signal", "TERM", container)
        counts = collections.Counter(answer.result().status_code for answer in answers)
    status = said("docker", "wait", container)
    return f"{', '.join(f'{count} × {code}' for code, count in counts.items())}; exit status {status}"


def main() -> None:
    """Build and start it, try each, print a table, and take all but the image away."""
    parser_of(__doc__).parse_args()
    print(machine())
    project = [*COMPOSE, "--project-name", "decoupe-tried"]
    try:
        said(*project, "up", "--detach", "--build", "decoupe")
        container = said(*project, "ps", "--quiet", "decoupe")
        tries = (size, licences, untold, healthy, identity, writable, cut, forks, ended)
        print_table(["", "seen"], [[(one.__doc__ or "").rstrip("."), one(container)] for one in tries])
    finally:
        said(*project, "down", "--volumes")


if __name__ == "__main__":
    main()
