#!/usr/bin/env bash
# Quadratic kappa of scikit-learn depends on which grades happen to occur: two knees read 0 and 2 count as one step apart
# as long as nobody gave a 1. One more knee that both readers call 1 changes the agreement of all the others.
# A validation side without one grade therefore has another kappa than the test side for equal errors.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   scikit-learn 1.9.1
#   99 knees, grades 0 2 3 4 occur:  kappa 0.901; by definition on the grades 0.848
#   the same with labels=range(5):   kappa 0.848
#   one knee more, 1 by both:        kappa 0.848
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q scikit-learn==1.9.1 numpy==2.4.6
env/bin/python - <<'EOF'
import numpy, sklearn
from sklearn.metrics import cohen_kappa_score

# How many knees the first reader gave the first grade and the second reader the second (Kellgren-Lawrence, 0 to 4); no 1 was given.
knees = {(0, 0): 40, (0, 2): 8, (2, 0): 6, (2, 2): 20, (2, 3): 3, (3, 3): 12, (3, 4): 2, (4, 4): 8}
first, second = numpy.array([pair for pair, n in knees.items() for _ in range(n)]).T

def by_definition(a, b):
    disagreement = lambda x, y: ((x[:, None] - y) ** 2).mean()
    return 1 - ((a - b) ** 2).mean() / disagreement(a, b)

seen = cohen_kappa_score(first, second, weights="quadratic")
all_grades = cohen_kappa_score(first, second, weights="quadratic", labels=range(5))
one_more = cohen_kappa_score(numpy.append(first, 1), numpy.append(second, 1), weights="quadratic")
print("scikit-learn", sklearn.__version__)
print(f"99 knees, grades 0 2 3 4 occur:  kappa {seen:.3f}; by definition on the grades {by_definition(first, second):.3f}")
print(f"the same with labels=range(5):   kappa {all_grades:.3f}")
print(f"one knee more, 1 by both:        kappa {one_more:.3f}")
assert abs(all_grades - by_definition(first, second)) < 1e-9 and seen - all_grades > 0.05 and seen - one_more > 0.05, "the behaviour has changed"
EOF
