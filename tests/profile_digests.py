"""Digests of every built-in profile: of its settings, and of the names under which its networks are stored.

`python tests/profile_digests.py` writes them to profile_digests.json.  A digest that changes gives every network that
was trained before another name, so the file is written anew only where a profile is meant to change.
"""

import json
from pathlib import Path

from dashkit.experiments import campaign
from dashkit.experiments.evaluation import _evaluation_path, results_path
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run
from dashkit.method.arms import OBJECTIVES
from dashkit.storage import store

PATH = Path(__file__).with_suffix(".json")


def digests() -> dict[str, dict[str, str]]:
    """By profile: the digest of its settings, and the stored name of everything that is kept under a digest."""
    found = {}
    for name, profile in sorted(PROFILES.items()):
        run = Run(profile, root=Path("nowhere"))
        vars(run)["_read"] = None, ""                      # without the digest of a data set that may be here
        arms = [arm for arm in OBJECTIVES if not profile.exact_bandwidth or arm in profile.arms]
        found[name] = {"settings": store.fingerprint(profile.asdict())} | {
            arm: run.folder(arm, 42).name for arm in ("teacher", *arms)}
        found[name] |= {"lockstep": run.lockstep(profile.arms, 42).name,
                        "evaluation": _evaluation_path(run, "teacher", 42).name,
                        "results": results_path(run).name, "campaign": campaign.plan_path(run).name}
    return found


if __name__ == "__main__":
    PATH.write_text(json.dumps(digests(), indent=1) + "\n")
