"""What a run ran on, for its records."""

import os
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe() -> dict[str, Any]:
    """The command, versions of the packages that compute, the commit of this code ("" in no git), and the devices."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {name: metadata.version(name) for name in PACKAGES if _is_installed(name)},
        "commit": commit,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "machine": machine(),
        "processes": jax.process_count(),
    }


def machine() -> str:
    """The processor's name, as far as the system tells it, and the number of its cores."""
    try:
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _is_installed(package):
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def device_memory() -> dict[str, float]:
    """The most memory in use so far on the first device of this process, in GiB; nothing where it is not known."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return {} if peak is None else {"device_memory_gib": peak / 2**30}


def cache_compilation(folder: Path) -> None:
    """Keeps compiled programs in a folder, unless JAX is told to keep them somewhere (JAX_COMPILATION_CACHE_DIR)."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
