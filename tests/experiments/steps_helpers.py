"""What several test files of runs use."""



import torch

from dashkit.experiments.run import FINAL
from dashkit.storage import store

ARMS = ("dash", "cond_only", "multi_w")


def final(run, arm, seed):
    return store.load_tensors(run.folder(arm, seed) / "final.safetensors").tensors


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def retrained(run, arm):
    """Put other weights in the place of a network's, as another machine would make them from the same settings."""
    saved = store.load_tensors(run.folder(arm, 1) / FINAL)
    changed = {k: v + 1e-6 if k.startswith("ema.") else v for k, v in saved.tensors.items()}
    store.save_tensors(run.folder(arm, 1) / FINAL, changed, saved.meta)
