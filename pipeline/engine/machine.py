"""How busy the machine is that trains, by the names under which MLflow's pages show it.

MLflow's own monitor is not used: it would watch the driver's machine, wants a package that is not installed, and waits
for the server. psutil comes with Ray; a GPU's memory is what torch says of it.
"""

from __future__ import annotations

import importlib
import os

import torch

SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own
MEGABYTE = 1e6


def wanted() -> bool:
    """Whether system metrics are logged: unless `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING` is false."""
    return os.environ.get(SWITCH, "true").strip().lower() not in ("false", "0")


class Machine:
    """This machine, and this process's device; called, what it did since the last call."""

    def __init__(self, device: torch.device):
        self.psutil = importlib.import_module("psutil")  # importing Ray, as every worker has by now, makes it known
        self.device, self.process = device, self.psutil.Process()
        self.psutil.cpu_percent()  # counts from here

    def __call__(self) -> dict[str, float]:
        """Percentages, 0 to 100, and megabytes."""
        memory = self.psutil.virtual_memory()
        found = {
            "system/cpu_utilization_percentage": self.psutil.cpu_percent(),
            "system/system_memory_usage_percentage": memory.percent,
            "system/system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system/process_memory_megabytes": self.process.memory_info().rss / MEGABYTE,
        }
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            found["system/gpu_0_memory_usage_megabytes"] = (total - free) / MEGABYTE
            found["system/gpu_0_memory_usage_percentage"] = 100 * (1 - free / total)
        return found
