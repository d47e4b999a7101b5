"""Analysis: from tables of results to intervals, verdicts and the claim ledger.  For a reader of the published numbers.

Nothing here trains, unless `results_of` is asked to recompute.  This room imports method, storage, datasets, interop
and experiments.
"""

from dashkit.analysis.costs import cost_ratios, cost_rows, published_cost
from dashkit.analysis.ledger import claim_ledger
from dashkit.analysis.rules import (
    CONTRADICTED,
    HOLDS,
    NOT_TESTABLE,
    UNDECIDED,
    Bound,
    Rule,
    apply_rule,
    claim_rules,
)
from dashkit.analysis.tables import (
    RESULTS,
    Results,
    by_seed,
    by_unit,
    calibration_table,
    checked,
    intervals,
    published_results,
    results_of,
    scales_of,
    source_of,
)

__all__ = [
    "CONTRADICTED", "HOLDS", "NOT_TESTABLE", "RESULTS", "UNDECIDED", "Bound", "Results", "Rule", "apply_rule",
    "by_seed", "by_unit", "calibration_table", "checked", "claim_ledger", "claim_rules", "cost_ratios",
    "cost_rows", "intervals", "published_cost", "published_results", "results_of", "scales_of",
    "source_of",
]
