"""The generated part of docs/gpu.md, from data/results/gpu; `dashkit.publishing.readme` puts it in place."""

from pathlib import Path

import pandas as pd

from dashkit.experiments.costing import STAGES
from dashkit.experiments.profiles import PROFILES
from dashkit.storage import paths, store, tables

MINUTES, FID_SAMPLES = 10, 5000      # of training in a loan of twelve minutes; of the paper's networks

PAGE, MEASURED = paths.ROOT / "docs" / "gpu.md", paths.ROOT / "data" / "results" / "gpu"


def blocks(folder: Path = MEASURED) -> dict[str, str]:
    """The parts of the page, by name, from the committed measurements alone."""
    loan, test = store.read_json(folder / "loan.json"), store.read_json(folder / "selftest.json")
    again = store.read_json(folder / "loan_students.json")
    return {"measured": "\n\n".join([_loan(loan), _students(again, loan), _fids(again, tables.read_table(
        folder / "fid_students.csv")), _on(store.read_json(folder / "loan_on.json"), again), _rates(test),
        _checks(test)]),
            "loans": _loans(loan, test)}


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _loan(found: dict) -> str:
    """What one loan gave, and how well its plan was kept."""
    images = {name: found[f"{name}_steps"] * found["batch"] / 1e6 for name in ("teacher", "student")}
    said = [
        f"One loan of a quarter of an hour, on {found['device'].replace('-', ' ')} "
        f"([loan.json](../data/results/gpu/loan.json)):",
        f"a teacher of `{found['profile']}` saw {images['teacher']:.2f} million images, and {found['arms']} students "
        f"of each of {found['seeds']} seeds saw {images['student']:.2f} million.",
        f"The teacher trained at {found['teacher_images_a_second']:,} images a second, a lockstep at "
        f"{found['students_images_a_second']:,}, all its students counted."]
    rows = [[name, f"{stage['planned_s']:.0f} s", f"{stage['used_s']:.0f} s",
             "all" if stage["done"] else f"{stage['networks']} networks of "
             f"{1 + found['arms'] * found['seeds']}, the rest in later turns"]
            for name, stage in ((name, found["stages"][name]) for name in STAGES)]
    streams = ", ".join(f"{ms:g} ms on {n}" for n, ms in sorted(
        found["lockstep_ms_by_streams"].items(), key=lambda item: int(item[0])))
    costs = [
        f"A step of all {found['arms']} students took {found['lockstep_ms']:g} ms as a CUDA graph. "
        f"Compiled it took {found['lockstep_compiled_ms']:g} ms, after {found['compiling_s']} s for {found['graphs']} "
        "graphs, so `campaign --compile` chose to compile.",
        f"The number of streams did not matter: {streams}.",
        f"The published settings would take {found['published_hours']:.0f} hours there."]
    return "\n\n".join([" ".join(said), _table(["stage", "planned", "used", "done"], rows), " ".join(costs)])


def _students(found: dict, loan: dict) -> str:
    """What a second loan gave, to the students alone."""
    seen = found["batch"] * found["student_steps"] / 1e6
    longer = found["small_batch_ms"] / loan["lockstep_ms"] * loan["batch"] / found["small_batch"]
    return (f"A second loan, on {found['device'].replace('-', ' ')}, trained the students anew "
            f"([loan_students.json](../data/results/gpu/loan_students.json)): {found['student_steps']:,} steps of "
            f"{found['batch']}, {seen:.2f} million images each, {found['seed_s']:.0f} s for the {found['arms']} of a "
            f"seed. A small batch costs more. A step of {found['small_batch']} images took "
            f"{found['small_batch_ms']:g} ms as a graph, and one of {loan['batch']} took {loan['lockstep_ms']:g} ms in "
            f"the loan before: {longer:.1f} times as long for an image. Compiled, a step of {found['batch']} took "
            f"{found['lockstep_compiled_ms']:.0f} ms. FID of {found['fid_samples']:,} samples took "
            f"{found['fid_teacher_s']:.0f} s for the teacher and {found['fid_student_s']:.0f} s for a student.")


def _fids(found: dict, table: pd.DataFrame) -> str:
    """FID of the networks of the second loan, the nearest to real photographs first."""
    name = f"fid@w={PROFILES[found['profile']].w:g}"
    values = table[table.metric == name].sort_values("value")
    said = ", ".join(f"{row.arm} {row.value:.1f}" for row in values.itertuples())
    return (f"FID at {name.partition('@')[2]} of {values.n.iloc[0]:,} samples, training seed {found['seed']} "
            f"([fid_students.csv](../data/results/gpu/fid_students.csv)): {said}. One half of {found['reference']:,} "
            f"photographs has {found['fid_floor']:.1f} against the other. The pictures have 16x16 pixels, and this is "
            "not the published FID. The networks wait for their other measurements in "
            "[data/loans](../data/loans/README.md).")


def _on(found: dict, before: dict) -> str:
    """What a third loan gave, to the students of the second."""
    more, first = found["batch"] * found["student_steps"] / 1e6, before["batch"] * before["student_steps"] / 1e6
    losses = {float(lr): dict(zip(found["lr"]["arms"], values, strict=True))
              for lr, values in found["lr"]["losses"].items()}
    best = {arm: min(losses, key=lambda lr: losses[lr][arm]) for arm in found["lr"]["arms"]}
    slowed = [1e3 * seconds / found["student_steps"] for seconds in found["seconds_beside_others"].values()]
    earlier = found["r2_before"]
    rows = [[arm, f"{earlier['values'][arm]:.2f}" if arm in earlier["values"] else "",
             ", ".join(f"{value:.2f}" for value in values.values())] for arm, values in found["r2"].items()]
    fid, kept = found["teacher_fid"], ", ".join(map(str, found["networks"]["kept"]))
    constant = next(iter(name for name in sorted(fid) if name.startswith("w=")))
    return "\n\n".join([
        f"In a third loan, on {found['device'].replace('-', ' ')}, these students went on "
        f"([loan_on.json](../data/results/gpu/loan_on.json)): the setting `student_first` begins with the averaged "
        f"weights of the training before. They saw {more:.2f} million images more, in steps of {found['batch']}, "
        f"{first + more:.2f} million in all. A step took {found['lockstep_ms']:g} ms as a graph and "
        f"{found['lockstep_compiled_ms']:g} ms compiled. Learning rates were compared by the training loss of "
        f"{found['lr']['steps']:,} steps; the best of {', '.join(f'{lr:g}' for lr in sorted(losses))} was "
        f"{', '.join(f'{lr:g} for {arm}' for arm, lr in best.items())}. The loan took {found['student_lr']:g}.",
        f"It was not used well. {found['programs']} programs shared the card, of which one trained and the others "
        f"waited or measured. A step then took {min(slowed):.0f} to {max(slowed):.0f} ms, and the loan ended before "
        f"two of the {found['seeds']} seeds were trained. The networks of seed {kept} came back "
        "([data/loans](../data/loans/README.md)). So: one program after the other, and what is done is brought home "
        "at once.",
        f"R² of the gap, seed by seed ({', '.join(found['r2']['dash'])}). The column before is of seed "
        f"{earlier['seed']} after {first:.2f} million images:",
        _table(["arm", "R² before", "R² after"], rows),
        f"The teacher's FID of {found['fid_samples']:,} samples was {fid[constant]:.1f} at {constant}, and "
        f"{fid['tag']:.1f} with TAG. That is a lead: it is one teacher, and TAG stands beside one constant, which "
        "has another mean strength. Products were rounded to TF32 this time. That hardly matters: the half of the "
        f"photographs has {found['fid_floor']:.2f} against the other, and {before['fid_floor']:.2f} without it."])


def _loans(loan: dict, test: dict) -> str:
    """What three loans of this length would give at the rates that were measured, beside the one that was had."""
    rate = {f["what"]: f["value"] for f in _found(test, "images a second")}
    used = {name: stage["used_s"] for name, stage in loan["stages"].items()}
    p = PROFILES["cifar10_loan"]
    teacher = rate["teacher's updates as a graph"]
    student = 1 / (1 / rate["teacher's passes"] + len(p.arms) / rate["student's updates"])   # images of each
    sampled = FID_SAMPLES * p.sample_steps / rate["teacher's passes"]
    rows = [
        ["`--profile cifar16_loan --minutes 12 --compile`",
         f"had: {loan['teacher_steps'] * loan['batch'] / 1e6:.1f} M for the teacher, "
         f"{loan['student_steps'] * loan['batch'] / 1e6:.1f} M for each student",
         f"{(used['teacher'] + used['students']) / 60:.0f} min of training"],
        ["`--profile cifar10_loan --stages teacher --minutes 12 --compile`",
         f"at least {teacher * 60 * MINUTES / 1e6:.1f} M for the teacher", f"{MINUTES} min of training"],
        ["`--profile cifar10_loan --stages students --minutes 12 --compile`",
         f"at least {student * 60 * MINUTES / 1e6:.1f} M for each of {len(p.arms)} students",
         f"{MINUTES} min of training"],
        [f"`--profile cifar10_loan --stages evaluation,fid --fid-samples {FID_SAMPLES} --minutes 12`",
         f"FID of {FID_SAMPLES:,} samples", f"{sampled:.0f} s for each guidance of the teacher, and Inception"]]
    return _table(["`campaign` with", "images", "time"], rows)


def _found(test: dict, name: str) -> list[dict]:
    return next(c["found"] for c in test["checks"] if c["name"] == name)


def _number(found: dict) -> str:
    value = f"{found['value']:.3g}" if abs(found["value"]) < 1000 else f"{found['value']:,.0f}"
    return f"{value} {found['unit']}".strip()


def _rates(test: dict) -> str:
    manifest = test["manifest"]
    rows = [[f["what"], _number(f)] for name in ("machine", "launches", "images a second") for f in _found(test, name)]
    return "\n\n".join([
        f"Rates of the same card. The networks are those of `{manifest['networks']}` at its batch, in bfloat16, called "
        "one by one where nothing else is said ([selftest.json](../data/results/gpu/selftest.json)):",
        _table(["what", "measured"], rows)])


def _checks(test: dict) -> str:
    marks = {True: "ok", False: "FAILED", None: "left out"}
    rows = []
    for check in test["checks"]:
        bounded = [f for f in check["found"] if f["most"] is not None]
        if bounded:
            rows.append([check["name"], marks[check["ok"]], f"{check['seconds']:.1f} s", "; ".join(
                f"{f['what']} {f['value']:.3g} (at most {f['most']:g})" for f in bounded)])
    return "\n\n".join([f"The checks of `doctor`, {test['manifest']['seconds']:.0f} s in all:",
                        _table(["check", "", "took", "found"], rows)])
