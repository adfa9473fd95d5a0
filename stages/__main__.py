"""The command line: `kintsugi VERB ...`, the same as `python -m stages VERB ...`.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 failed, 2 the command or the data
cannot be used as they are (one sentence says what to do).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from pipeline.config import ConfigError, nearest
from pipeline.engine.track import without_password
from stages.failures import explain

VERBS = {
    "run": "make everything a recipe needs that is not made yet",
    "plan": "say what `run` would do, and why",
    "estimate": "say what the trainings of `run` would take in time, memory and money",
    "search": "try options of a recipe, and keep the best",
    "show": "print a recipe's options, or what an artifact was made from",
    "diff": "say in which options two artifacts differ",
    "ls": "list artifacts",
    "gc": "delete what no name leads to",
    "sample": "draw images from a model",
    "evaluate": "measure a model on a set of images",
    "export": "write a model for programs that do not know this project",
    "adopt": "make a model of weights that were trained elsewhere",
    "data": "say what images hold, and which are in two sets",
    "doctor": "check this machine, the store, Ray and MLflow",
}
USAGE = "usage: kintsugi VERB ...\n\n" + "\n".join(f"  {name:<10} {what}" for name, what in VERBS.items())


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
    """Imported only now: `kintsugi --help` must not wait for torch."""
    from stages import doctor, estimate, running, verb_data, verb_models, verb_portable, verb_search, verbs

    modules = (running, estimate, verbs, verb_models, verb_portable, doctor, verb_data, verb_search)
    return next(getattr(module, verb) for module in modules if hasattr(module, verb))


def _say(sentence: str, code: int, debug: bool) -> int:
    if debug:
        print(without_password(traceback.format_exc()), file=sys.stderr)
    print(f"kintsugi: {without_password(' '.join(sentence.split()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
