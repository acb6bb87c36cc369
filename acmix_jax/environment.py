"""What a run ran on, for its records."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe() -> dict[str, Any]:
    """Versions of the packages that compute, the commit of this code ("" where it is in no git), and the devices."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "commit": commit,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "processes": jax.process_count(),
    }


def device_memory() -> dict[str, float]:
    """The most memory in use so far on the first device of this process, in GiB; nothing where it is not known."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return {} if peak is None else {"device_memory_gib": peak / 2**30}


def cache_compilation(folder: Path) -> None:
    """Keeps compiled programs in a folder, unless JAX is told to keep them somewhere (JAX_COMPILATION_CACHE_DIR)."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
