"""How long each explorer takes to answer a move on this machine: `python tests/tools/response.py`.

Seconds of wall time, and of processor time, which a busy machine does not lengthen as much.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "classroom"))
from test_explorers import EXPLORERS


def main() -> None:
    torch.set_num_threads(1)              # as in the notebooks
    for name, (make, moves) in EXPLORERS.items():
        explorer, seconds = make(), {}
        for _ in range(3):
            for control, value in moves.items():
                widget = explorer.controls[control]
                extremes = (widget.min, widget.max) if hasattr(widget, "min") else ()
                for target in (value, *extremes, widget.value):
                    wall, processor = time.perf_counter(), time.process_time()
                    widget.value = target
                    spent = time.perf_counter() - wall, time.process_time() - processor
                    seconds.setdefault(f"{control} = {target}", []).append(spent)
        wall, processor = (sorted(pair[i] for pairs in seconds.values() for pair in pairs) for i in (0, 1))
        slowest = max(seconds, key=lambda move: max(pair[1] for pair in seconds[move]))
        print(f"{name:10s} {len(wall):3d} moves, wall: median {wall[len(wall) // 2]:.3f}, worst {wall[-1]:.3f}; "
              f"processor: median {processor[len(processor) // 2]:.3f}, worst {processor[-1]:.3f} ({slowest})")


if __name__ == "__main__":
    main()
