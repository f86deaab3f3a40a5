"""A description of the machine that the figures were measured on."""

import datetime
import os
import platform

from bench.results import MEGABYTE


def description() -> str:
    """Return a sentence with the date, this machine and its software."""
    today = datetime.datetime.now(datetime.UTC).date()
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MEGABYTE / 1000
    return (
        f"Measured on {today} with {cores} {'core' if cores == 1 else 'cores'} ({_processor()}), "
        f"{memory:.0f} GB of memory, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}."
    )


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
