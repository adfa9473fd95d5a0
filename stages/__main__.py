"""The command line: `kintsugi VERB ...`, the same as `python -m stages VERB ...`.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 failed, 2 the command or the data
cannot be used as they are (one sentence says what to do).
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from pipeline.config import ConfigError, nearest
from pipeline.engine.track import without_password

VERBS = {
    "run": "make everything a recipe needs that is not made yet",
    "plan": "say what `run` would do, and why",
    "show": "print a recipe's options, or what an artifact was made from",
    "diff": "say in which options two artifacts differ",
    "ls": "list artifacts",
    "gc": "delete what no name leads to",
    "sample": "draw images from a model",
    "evaluate": "measure a model on a set of images",
    "data": "say what images hold, and which are in two sets",
    "doctor": "check this machine, the store, Ray and MLflow",
}
USAGE = "usage: kintsugi VERB ...\n\n" + "\n".join(f"  {name:<10} {what}" for name, what in VERBS.items())
FULL = {errno.ENOSPC, errno.EDQUOT}
THEIRS = {getattr(errno, name) for name in ["ENOENT", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "EROFS", "ENAMETOOLONG"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if debug:
        os.environ["KINTSUGI_DEBUG"] = "1"
    try:
        return _command(words)
    except KeyboardInterrupt:
        return _say("interrupted: the same command continues where this one stopped", 130, debug)
    except (ValueError, ImportError) as error:  # ImportError: fsspec names the package a URL needs
        return _say(str(error), 2, debug)
    except Exception as error:
        cause = _root(error)
        if isinstance(cause, OSError) and cause.errno is not None:
            return _say(_disk(cause), 2 if cause.errno in THEIRS else 1, debug)
        if isinstance(cause, ValueError) and cause is not error:
            return _say(str(error), 2, debug)
        return _say(f"{error or type(error).__name__} (--debug shows where)", 1, debug)


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise ConfigError(f"there is no command '{verb}'{nearest(verb, VERBS)}")
    return _entry(verb)(rest)


def _entry(verb: str) -> Callable[[list[str]], int]:
    """Imported only now: `kintsugi --help` must not wait for torch."""
    from stages import doctor, running, verb_data, verbs

    return next(getattr(module, verb) for module in (running, verbs, doctor, verb_data) if hasattr(module, verb))


def _say(sentence: str, code: int, debug: bool) -> int:
    if debug:
        print(without_password(traceback.format_exc()), file=sys.stderr)
    print(f"kintsugi: {without_password(' '.join(sentence.split()))}", file=sys.stderr)
    return code


def _root(error: BaseException) -> BaseException:
    """What a failure began with, through the wrappers of steps and of Ray."""
    seen = [error]
    while True:
        inner = getattr(seen[-1], "cause", None) or seen[-1].__cause__
        if not isinstance(inner, BaseException) or inner in seen:
            return seen[-1]
        seen.append(inner)


def _disk(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in FULL:
        return f"the disk is full{where}: free some space, `kintsugi gc` lists what is not needed, and run again"
    what = os.strerror(error.errno or 0)
    if error.errno in THEIRS:
        return f"{what}{where}: check the path and your rights to it"
    return f"{what}{where} (--debug shows where)"


if __name__ == "__main__":
    sys.exit(main())
