"""The memory of a machine, on every system."""

import ctypes
from types import SimpleNamespace

import pytest

from dashkit.storage import memory, store


def test_the_memory_of_this_machine_is_known():
    assert store.machine_memory is memory.machine_memory
    assert 2**28 < memory.machine_memory() < 2**50


@pytest.mark.parametrize(("works", "found"), [(1, 17_000_000_000), (0, None)])
def test_windows_is_asked_in_its_own_way(monkeypatch, works, found):
    def fill(reference):
        status = reference._obj
        assert status.length == ctypes.sizeof(status) == 64            # else Windows refuses it
        status.total = 17_000_000_000
        return works

    windll = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=fill))
    monkeypatch.setattr(memory, "os", SimpleNamespace())                # it has no sysconf there
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(**{**vars(ctypes), "windll": windll}))
    assert memory.machine_memory() == found


def test_a_system_that_does_not_say_is_no_error(monkeypatch):
    monkeypatch.setattr(memory, "os", SimpleNamespace())
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(**{**vars(ctypes), "windll": None}))
    assert memory.machine_memory() is None
