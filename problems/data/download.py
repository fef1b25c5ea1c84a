"""Downloads into memory, whole or not at all.

By urllib, as in scikit-learn: what a download library would add (a folder of archives, their hashes) is not
needed, and it bounds the wait for each of a host's addresses, not for all of them.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from problems.data.data_set import WrongContent
from problems.progress import BYTES, progress_bar

SECONDS_TO_ANSWER = 10.0
SECONDS_OF_SILENCE = 30.0
CHUNK = 1 << 18


def resolve(url: str) -> str:
    """The URL itself; `npm:` becomes the npm registry that NPM_CONFIG_REGISTRY names, or the public one."""
    if not url.startswith("npm:"):
        return url
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or "https://registry.npmjs.org"
    return f"{registry.rstrip('/')}/{url.removeprefix('npm:')}"


def download(url: str, sha256: str | None = None) -> bytes:
    """All of `url`; OSError where it cannot be had whole, WrongContent where its hash is another one."""
    host = urlsplit(url).netloc or url
    try:
        with _answer(url) as answer:
            content = _read(answer, url)
    except urllib.error.HTTPError as error:
        raise OSError(f"{host} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise OSError(f"{host} cannot be reached: {error.reason}") from error
    except TimeoutError as error:
        raise OSError(f"{host} is silent: {error}") from error
    except HTTPException as error:
        raise OSError(f"{host} broke off: {type(error).__name__} {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise WrongContent(f"its SHA-256 is {found[:16]}…, not {sha256[:16]}…")
    return content


def _answer(url: str) -> Any:
    """The response, once its head is there; OSError where that takes too long.

    A thread waits, since the time limit of a socket holds for each of a host's addresses by itself, and for
    looking up its name not at all.
    """
    outcome: queue.Queue[Any] = queue.Queue(1)
    request = urllib.request.Request(url, headers={"User-Agent": "ihvp-bench"})

    def connect() -> None:
        try:
            # Of its own, since urlopen's keeps the proxies that were set when it was first used.
            opener = urllib.request.build_opener()
            outcome.put(opener.open(request, timeout=SECONDS_OF_SILENCE))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        found = outcome.get(timeout=SECONDS_TO_ANSWER)
    except queue.Empty:
        raise TimeoutError(f"no answer within {SECONDS_TO_ANSWER:g} s") from None
    if isinstance(found, Exception):
        raise found
    return found


def _read(answer: Any, url: str) -> bytes:
    """The body; OSError where it ends early."""
    size = int(answer.headers.get("Content-Length") or 0)
    content = bytearray()
    with progress_bar(url.rpartition("/")[2], size or None, BYTES) as show:
        while chunk := answer.read(CHUNK):
            content += chunk
            show(len(content))
    # read() says nothing of a connection that was closed half way.
    if size and len(content) != size:
        raise OSError(f"the download ended after {len(content):,} of {size:,} bytes")
    return bytes(content)
