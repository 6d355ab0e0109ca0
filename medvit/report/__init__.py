"""The evaluation report: tables, figures, wording, reporting checklist and the page."""
