"""The command line: `kintsugi VERB ...`, the same as `python -m stages VERB ...`.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 failed, 2 the command or the data
cannot be used as they are (one sentence says what to do).
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from pipeline.config import ConfigError, nearest
from pipeline.engine.track import without_password
from stages.failures import explain

VERBS = {  # and the module of each
    "run": ("running", "make everything a recipe needs that is not made yet"),
    "plan": ("running", "say what `run` would do, and why"),
    "estimate": ("estimate", "say what the steps of `run` would take in time, memory and money"),
    "search": ("verb_search", "try options of a recipe, and keep the best"),
    "show": ("verbs", "print a recipe's options, or what an artifact was made from"),
    "diff": ("verbs", "say in which options two artifacts differ"),
    "ls": ("verb_ls", "list artifacts, or rank runs and trials"),
    "report": ("verb_report", "write the story of each run as a page, and an index of the store"),
    "gc": ("verbs", "delete what no name leads to"),
    "sample": ("verb_models", "draw images from a model"),
    "evaluate": ("verb_models", "measure a model on a set of images"),
    "average": ("verb_average", "choose another average of a model's weights, after training"),
    "export": ("verb_portable", "write a model for programs that do not know this project"),
    "register": ("verb_register", "put a model into MLflow's registry, where it can be served"),
    "adopt": ("verb_portable", "make a model of weights that were trained elsewhere"),
    "track": ("verb_track", "list what MLflow was not told while it was away, or replay it"),
    "data": ("verb_data", "say what images hold, and which are in two sets"),
    "submit": ("verb_submit", "run a command as a job on a Ray cluster, and watch it"),
    "preflight": ("verb_preflight", "on a cluster: look whether a command can run, then run it"),
    "doctor": ("doctor", "check this machine, the store, Ray and MLflow"),
}
USAGE = "usage: kintsugi VERB ...\n\n" + "\n".join(f"  {name:<10} {what}" for name, (_, what) in VERBS.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if debug:
        os.environ["KINTSUGI_DEBUG"] = "1"
    try:
        code = _command(words)
        sys.stdout.flush()  # what a pipe has to say of it, it says here
        return code
    except BrokenPipeError:  # whoever read what was printed has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _say("interrupted: the same command continues where this one stopped", 130, debug)
    except Exception as error:
        return _say(*explain(error), debug)


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise ConfigError(f"there is no command '{verb}'{nearest(verb, VERBS)}")
    return _entry(verb)(rest)


def _entry(verb: str) -> Callable[[list[str]], int]:
    """Imported only now, and no other: what is wrong with a command or with data must not wait for torch."""
    return getattr(importlib.import_module(f"stages.{VERBS[verb][0]}"), verb)


def _say(sentence: str, code: int, debug: bool) -> int:
    if debug:
        print(without_password(traceback.format_exc()), file=sys.stderr)
    print(f"kintsugi: {without_password(' '.join(sentence.split()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
