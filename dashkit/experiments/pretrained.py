"""Networks that come with the kit: a fresh clone looks at photographs without training anything."""

from pathlib import Path

from dashkit.storage import paths, store

SHIPPED = paths.ROOT / "data" / "pretrained"
FINAL = "final.safetensors"       # written last: a folder that has it is whole


def put_in_place(profile: str, root: Path) -> list[str]:
    """Copy what comes with the kit for a profile into `root`, where runs look; returns the names of what was copied.

    Networks are found by their settings, so those of other settings are never used.  What is there already stays.
    """
    place, copied = SHIPPED / profile, []
    for source in sorted(place.glob("*.safetensors")) + sorted(place.glob("*/*"), key=lambda f: f.name == FINAL):
        target = root / profile / source.relative_to(place)
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            store.write_bytes(target, source.read_bytes())
            copied.append(str(source.relative_to(place)))
    return copied
