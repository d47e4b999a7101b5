"""Analysis: from tables of results to intervals, verdicts and the claim ledger.  For a reader of the published numbers.

Nothing here trains, unless `results_of` is asked to recompute.  This room imports method, storage, datasets, interop
and experiments.
"""

from dashkit.analysis import statistics
from dashkit.analysis.costs import cost_ratios, cost_rows, published_cost
from dashkit.analysis.ledger import claim_ledger, verdicts
from dashkit.analysis.rules import (
    CONTRADICTED,
    HOLDS,
    NOT_TESTABLE,
    UNDECIDED,
    Bound,
    Rule,
    apply_rule,
    claim_rules,
    study_rows,
)
from dashkit.analysis.statistics import Interval, bootstrap, shapley
from dashkit.analysis.tables import (
    RESULTS,
    Results,
    by_seed,
    by_unit,
    calibration_table,
    checked,
    intervals,
    published_figures,
    published_results,
    published_study,
    results_of,
    scales_of,
    source_of,
)

__all__ = [
    "CONTRADICTED", "HOLDS", "NOT_TESTABLE", "RESULTS", "UNDECIDED", "Bound", "Interval", "Results", "Rule",
    "apply_rule", "bootstrap", "by_seed", "by_unit", "calibration_table", "checked", "claim_ledger", "claim_rules",
    "cost_ratios", "cost_rows", "intervals", "published_cost", "published_figures", "published_results",
    "published_study", "results_of", "scales_of", "shapley", "source_of", "statistics", "study_rows", "verdicts",
]
