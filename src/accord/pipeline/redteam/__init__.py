"""`accord redteam`: attempts at models by suites and attacks, logged, graded and audited."""
