"""Learning at work: candidates from the newest rollouts, accepted in shadow."""
