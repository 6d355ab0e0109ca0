"""Attribution maps, and how far they can be believed: localisation, faithfulness, sanity."""
