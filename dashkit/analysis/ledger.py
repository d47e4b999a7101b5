"""The claim ledger: every claim with the paper's figure, ours, and a verdict."""

from pathlib import Path

import pandas as pd

from dashkit.analysis.costs import cost_ratios, published_cost
from dashkit.analysis.rules import Rule, apply_rule, claim_rules, exact_row, structural_rows, with_holm
from dashkit.analysis.tables import RESULTS, published_results, source_of
from dashkit.experiments.profiles import PROFILES
from dashkit.storage import tables as storage_tables

LEDGER = ("claim", "rank", "sentence", "paper", "ours", "lo", "hi", "n", "p", "verdict", "rule", "needs", "measure",
          "note", "profile", "source", "figure")


def verdicts(results: pd.DataFrame, *, w: float, w_max: float) -> pd.DataFrame:
    """The rules of all claims applied to one `checked` table as the ledger applies them, a row a rule.

    `w` is the scale of the rules that name none, `w_max` the strongest.
    """
    return pd.DataFrame([apply_rule(results, rule) for rule in claim_rules(w=w, w_max=w_max)])


def claim_ledger(root: Path = RESULTS) -> pd.DataFrame:
    """Every claim with the paper's figure, ours with its interval, and a verdict, from the committed tables alone."""
    there = [name for name in ("digits", "exact", "cifar16") if (root / name / "results.csv").is_file()]
    tables = {name: published_results(name, root).table for name in there}
    rows = []
    for name, table in tables.items():
        p = PROFILES[name]
        found = verdicts(table, w=p.w, w_max=max(p.ws)).to_dict("records")
        rows += [row | {"profile": name, "source": source_of(table)} for row in with_holm(found)
                 if name == "digits" or not row["note"].startswith("not measured")]
    cost, papers = storage_tables.read_table(root / "cost.csv"), published_cost()
    where = "08_cost_and_rivals#size-operations-time-memory"
    for name, part in cost.groupby("profile", sort=False):
        ratio, device = cost_ratios(part), part.device.iloc[0]
        theirs = name == "cifar10"                      # the networks that the paper's figures are about
        note, rank = ("", "primary") if theirs else ("not the paper's networks", "secondary")
        parameters = Rule("C1", rank, "The student has 5.9 times fewer parameters", "parameters, teacher / student",
                          "35.75 M / 6.08 M = 5.9", holds="the count rounds to 5.9", figure=where)
        flops = Rule("C13", rank, "The student takes 5.77 times fewer operations", "operations, teacher / student",
                     f"{papers.flops:g}", holds=f"the count is within 1% of {papers.flops:g}", figure=where)
        found = [exact_row(parameters, ratio.parameters, note=note,
                           holds=round(ratio.parameters, 1) == 5.9 if theirs else None),
                 exact_row(flops, ratio.flops, note=note,
                           holds=abs(ratio.flops / papers.flops - 1) < 0.01 if theirs else None)]
        for metric, paper in papers[["seconds", "memory"]].items():
            rule = Rule("C13", "secondary", "The student saves time and memory as the paper says",
                        f"{metric}, teacher / student, one guided pass", f"{paper} (T4)",
                        holds="on a GPU: at least 90% of the paper's ratio", figure=where)
            found.append(exact_row(rule, ratio[metric],
                                   holds=None if device.startswith("cpu") else ratio[metric] > 0.9 * paper,
                                   note="measured on a CPU" if device.startswith("cpu") else device))
        rows += [row | {"profile": name, "source": f"{name}, commit {part.commit.iloc[0]}, {device}"} for row in found]
    rows += [row | {"profile": "any", "source": "linear algebra"} for row in structural_rows()]
    if "digits" in tables:
        teachers = tables["digits"].query("arm == 'teacher' and metric == 'spearman'").value
        rule = Rule("C10", "secondary", "A learned curriculum gives weight where the loss is high",
                    "Spearman of the teacher's curriculum and its loss", "", holds="the lower end is above 0",
                    figure="07_which_part_did_the_work#curricula")
        rows.append(exact_row(rule, teachers.mean(), holds=None, note=f"{len(teachers)} teachers: a lead")
                    | {"profile": "digits", "source": source_of(tables["digits"])})
    rule = Rule("C15", "primary", "DASH keeps its gain on ImageNet-64", "ImageNet-64", "9.10 against 18.43 FID",
                holds="FID-50K on ImageNet-64", figure="09_claim_ledger#the-ledger")
    rows.append(exact_row(rule, float("nan"), holds=None, note="needs the data and a GPU")
                | {"profile": "imagenet64", "source": ""})
    table = pd.DataFrame(rows)
    order = table.claim.str.extract(r"([CL])(\d+)").assign(**{"1": lambda d: d[1].astype(int)})
    table = table.assign(kind=order[0], number=order["1"]).sort_values(["kind", "number", "profile"], kind="stable")
    return table[list(LEDGER)].reset_index(drop=True)
