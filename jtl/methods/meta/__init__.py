"""Meta-learning: inner loops, update rules, and the objective over tasks."""
