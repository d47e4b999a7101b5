"""The verdicts on one table are those of the ledger."""

from dashkit.analysis import published_results, verdicts


def test_a_notebook_and_the_ledger_give_the_same_verdicts(ledger):
    found = verdicts(published_results("digits").table, w=1.5, w_max=4.0)
    told = ledger[(ledger.profile == "digits") & ledger.measure.isin(found.measure)]
    assert len(told) > 30
    same = found.set_index("measure").verdict.loc[told.measure].to_numpy() == told.verdict.to_numpy()
    assert same.all()
