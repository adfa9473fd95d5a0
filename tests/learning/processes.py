"""Processes that train together, each told its rank first and then the same words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def together(count: int, script: Path, *words: Path) -> list[str]:
    """What each of `count` processes of a script printed, once all have ended well; none of them is left behind."""
    folders = os.pathsep.join(map(str, (ROOT, Path(__file__).parent)))
    told = os.environ | {"PYTHONPATH": folders, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), *map(str, words)], env=told, stdout=subprocess.PIPE, text=True
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in ranks]
        assert [process.returncode for process in ranks] == [0] * count
    finally:
        for process in ranks:
            process.kill()
    return said
