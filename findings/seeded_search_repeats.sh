#!/usr/bin/env bash
# A study of Optuna in a file goes on where it was stopped, its sampler does not: made again with the same seed, as a script that is
# started a second time makes it, it draws from the beginning. The trials that are not yet led by results (n_startup_trials, ten of TPE) are
# tried again with the same values. A search that is resumed after every pre-emption of a cluster so spends its time on repetitions, and
# its best value and the spread over trials look better supported than they are.
# Output (2026-11-30, Python 3.11, Linux x86-64):
#   optuna 5.0.0
#   first process:  [0.076, 0.78, 0.438, 0.723]
#   second process: [0.076, 0.78, 0.438, 0.723]
#   8 trials, 4 different values
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q optuna==5.0.0
cat > search.py <<'EOF'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(storage="sqlite:///study.db", study_name="rate", load_if_exists=True, sampler=optuna.samplers.TPESampler(seed=7))
study.optimize(lambda trial: (trial.suggest_float("rate", 0, 1) - 0.3) ** 2, n_trials=4)
EOF
env/bin/python search.py
env/bin/python search.py
env/bin/python - <<'EOF'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
values = [round(trial.params["rate"], 3) for trial in optuna.load_study(storage="sqlite:///study.db", study_name="rate").trials]
print("optuna", optuna.__version__)
print("first process: ", values[:4])
print("second process:", values[4:])
print(len(values), "trials,", len(set(values)), "different values")
assert len(values) == 8 and values[:4] == values[4:], "the behaviour has changed"
EOF
