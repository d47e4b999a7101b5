"""The card of the networks that come with the kit: what they are, how they were made, how far to trust them."""

import pandas as pd

from dashkit.analysis.tables import Results, published_results
from dashkit.experiments.pretrained import SHIPPED
from dashkit.experiments.profiles import PROFILES
from dashkit.storage import store

COLUMNS = {"rho": "rho", "slope": "slope", "cos": "cos", "r2": "R²", "frechet@w=1.5": "Fréchet at w = 1.5",
           "accuracy@w=1.5": "recognised as asked"}


def model_card(profile: str, results: Results | None) -> str:
    """Markdown for `data/pretrained/PROFILE/README.md`, from the manifests there and the table of results."""
    p, place = PROFILES[profile], SHIPPED / profile
    manifests = {m.parent.name.split("-s")[0]: store.read_json(m, "commit", "device", "seed")
                 for m in sorted(place.glob("*/manifest.json"))}
    teacher = manifests["teacher"]
    size = sum(f.stat().st_size for f in place.rglob("*") if f.suffix in (".safetensors", ".npz")) / 1e6
    seen = {"teacher": p.batch * p.teacher_steps, "students": p.student_images}
    lines = [
        f"# Networks of profile {profile}", "",
        f"A teacher and one student of each of {len(manifests) - 1} arms, {size:.1f} MB in half precision.",
        "The students were trained side by side, on the same batches, each with another loss.", "",
        "- **Data:** CIFAR-10 (Krizhevsky, 2009), each pixel the mean of 2x2, and mirror images.",
        "  `sample.npz` holds a few images.",
        "  The data set has no licence of its own. Its authors ask to be cited. It is used for research and teaching.",
        f"- **Training:** the teacher saw {seen['teacher'] / 1e6:.2f} million images, "
        f"each student {seen['students'] / 1e6:.2f} million.",
        f"  Seed {teacher['seed']}, {teacher['device']}, commit {teacher['commit']}.",
        f"- **Limits:** there is one teacher. The students here are those of the first of {_seeds(results)} training "
        "seeds.",
        "  They saw few images, and their samples are noisy. Images have 16x16 pixels.",
        f'- **Use:** `start_run("{profile}")` puts the networks in place and trains nothing.',
        "  With `pretrained=False` everything is trained anew, on the whole data set.", "",
    ]
    if results is not None:
        lines += [_table(results.table), "", f"Gap statistics are on {p.states} noised held-out images.",
                  f"Means over {_seeds(results)} training seeds. {results.source[0].upper()}{results.source[1:]}.", ""]
    return "\n".join(lines)


def _seeds(results: Results | None) -> int:
    """How many training seeds the students of the table have; 1 if there is none yet."""
    return 1 if results is None else results.table.query("arm == 'dash'").seed.nunique()


def _table(table: pd.DataFrame) -> str:
    wide = table.pivot_table(index="arm", columns="metric", values="value", sort=False)
    there = {name: head for name, head in COLUMNS.items() if name in wide}
    rows = ["| " + " | ".join(["arm", "parameters", *there.values()]) + " |", "|" + "---|" * (len(there) + 2)]
    for arm, row in wide.drop(index="real", errors="ignore").iterrows():
        cells = " | ".join(f"{row[c]:.2f}" for c in there)
        rows.append(f"| {arm} | {row.parameters:,.0f} | {cells} |")
    return "\n".join(rows)


def write(profile: str, results: Results | None) -> None:
    """Write the card beside the networks."""
    store.write_bytes(SHIPPED / profile / "README.md", model_card(profile, results).encode())


if __name__ == "__main__":
    write("cifar16", published_results("cifar16"))
