"""Compare: the preference store, rewards, and judges.

The package is callable: `accord.compare(answers_a, answers_b, judge=…)` (see `accord.api`).
"""

from accord import make_compare_callable

make_compare_callable(__name__)
