"""Controls that should not learn, or only a little: what every real learner has to beat."""
