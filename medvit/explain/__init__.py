"""Attribution maps and their evaluation: localisation, faithfulness, sanity checks."""
