"""What a failure is called and what to do about it: one sentence, and the exit code that goes with it."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3

FULL = {errno.ENOSPC, errno.EDQUOT}
THEIRS = {getattr(errno, name) for name in ["ENOENT", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "EROFS", "ENAMETOOLONG"]}
REMOTE = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "httpx", "huggingface_hub", "requests"}
MISTAKES = ("Credentials", "Auth", "Token", "Profile", "Validation", "InvalidURL", "NotFound", "Gated", "Forbidden")


def explain(error: BaseException) -> tuple[str, int]:
    """(a sentence, 2 where the command or the data cannot be used as they are and 1 where something failed)."""
    if isinstance(error, ValueError | ImportError):  # fsspec names the package a URL needs
        return str(error), 2
    cause = _root(error)
    if _is_remote(cause):
        theirs = any(word in type(cause).__name__ for word in MISTAKES)
        return _network(cause), 2 if theirs else 1
    if getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:  # MLflow's database
        cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if isinstance(cause, OSError) and cause.errno is not None:
        return _disk(cause), 2 if cause.errno in THEIRS else 1
    if isinstance(cause, ValueError | ImportError):
        return str(error), 2
    return f"{error or type(error).__name__} (--debug shows where)", 1


def _root(error: BaseException) -> BaseException:
    """What a failure began with, through the wrappers of steps and of Ray."""
    seen = [error]
    while True:
        inner = getattr(seen[-1], "cause", None) or seen[-1].__cause__
        if not isinstance(inner, BaseException) or inner in seen:
            return seen[-1]
        if _is_remote(seen[-1]):  # what libraries of the network wrap says less than they do
            return seen[-1]
        seen.append(inner)


def _is_remote(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    return type(error).__module__.split(".")[0] in REMOTE


def _network(error: BaseException) -> str:
    said = str(error).strip().rstrip(".") or type(error).__name__
    return f"{said}: check the URL, the network, and the credentials in the environment, and run again"


def _disk(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in FULL:
        return f"the disk is full{where}: free some space, `kintsugi gc` lists what is not needed, and run again"
    what = os.strerror(error.errno or 0)
    if error.errno in THEIRS:
        return f"{what}{where}: check the path and your rights to it"
    return f"{what}{where} (--debug shows where)"
