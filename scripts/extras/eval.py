"""Two strings are scored, with an interval."""

from glm4v_core.evaluation import metrics

tallies = [metrics.character_errors("total 42", "total 24"), metrics.character_errors("same", "same")]
score = metrics.score_all([{"errors": tally} for tally in tallies], resamples=100, seed=0)["errors"]
assert (score.value, score.whole) == (2 / 12, 12), score
assert metrics.anls(["42"], "42") == 1
