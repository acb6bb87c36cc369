"""Memory of the devices."""

import jax


def peak_gib() -> dict[str, float]:
    """Peak memory of this process's first device so far, in GiB, as "device_memory_gib"; empty where it is unknown."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return {} if peak is None else {"device_memory_gib": peak / 2**30}
