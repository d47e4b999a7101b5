"""The generated part of docs/gpu.md, from data/results/gpu; `dashkit.publishing.readme` puts it in place."""

from pathlib import Path

from dashkit.storage import paths, store

PAGE, MEASURED = paths.ROOT / "docs" / "gpu.md", paths.ROOT / "data" / "results" / "gpu"


def blocks(folder: Path = MEASURED) -> dict[str, str]:
    """The parts of the page, by name, from the committed measurements alone."""
    return {"measured": "\n\n".join([_rates(store.read_json(folder / "rates.json")),
                                     _training(store.read_json(folder / "training.json")),
                                     _checks(store.read_json(folder / "checks.json"))])}


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rates(found: dict) -> str:
    names = {"teacher_update_eager": "updates of the teacher", "student_update_eager": "updates of a student",
             "teacher_both_eager": "passes of both branches, teacher", "student_both_eager": "the same, student"}
    rows = [[text, f"{found[key]:,.0f}", f"{found[key + '_first_s']:.1f} s"] for key, text in names.items()]
    return "\n\n".join([
        f"The card: {found['tflops']:.0f} TFLOP/s in bfloat16 products, {found['terabytes']:.2f} TB/s in copies.",
        "The networks of `cifar10_fast` at its batch, in bfloat16, called one by one, with cudnn's search for the "
        f"fastest algorithm on; at most {found['gigabytes_eager']:.1f} GiB "
        "([rates.json](../data/results/gpu/rates.json)):",
        _table(["work", "images a second", "the first call"], rows)])


def _training(found: dict) -> str:
    teacher, students = found["teacher"], found["lockstep_of_12"]
    streams = students["ms_a_step_by_streams"]
    rates = teacher["images_a_second"]
    said = [
        f"`{found['profile']}` on {found['device'].replace('-', ' ')}, as CUDA graphs, {found['processes']} processes "
        "on the card at once ([training.json](../data/results/gpu/training.json)):",
        f"the teacher took {teacher['steps']:,} steps in {teacher['seconds']:.0f} s, {min(rates):,} to {max(rates):,} "
        f"images a second, with a first step of {teacher['first_step_s']:.0f} s.",
        f"Twelve students in lockstep took {streams['4']:.0f} ms a step on four streams and {streams['1']:.0f} ms on "
        "one while the teacher trained beside them,",
        f"and {students['ms_a_step_alone']:.0f} ms on four streams alone: {students['steps']:,} steps in "
        f"{students['seconds']:.0f} s."]
    return " ".join(said)


def _checks(found: dict) -> str:
    rows = [[c["check"], "ok" if c["ok"] else "FAILED", f"{c['seconds']:.1f} s", c["said"]] for c in found["checks"]
            if "as on the CPU" in c["check"] or "bit for bit" in c["check"] or "bfloat16" in c["check"]]
    head = "What the card computed, held against the CPU ([checks.json](../data/results/gpu/checks.json)):"
    return "\n\n".join([head, _table(["check", "", "took", "found"], rows)])
