"""How much memory this machine has.  The standard library alone: doctor asks where nothing else can be imported."""

import ctypes
import os


class _Status(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("total", ctypes.c_uint64),
                *((name, ctypes.c_uint64) for name in ("free", "page_total", "page_free", "virtual_total",
                                                       "virtual_free", "extended_free")))


def machine_memory() -> int | None:
    """The memory of this machine in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):            # Windows has no sysconf
        return _windows_memory()


def _windows_memory() -> int | None:
    windll, status = getattr(ctypes, "windll", None), _Status(length=ctypes.sizeof(_Status))
    if windll is None or not windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return int(status.total)
