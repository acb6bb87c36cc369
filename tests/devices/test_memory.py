from types import SimpleNamespace

import jax

from acmix_jax.devices import memory


def test_peak_memory_is_reported_where_the_device_knows_it(monkeypatch):
    assert memory.peak_gib() == {}  # a CPU does not
    device = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 3 * 2**29})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory.peak_gib() == {"device_memory_gib": 1.5}
