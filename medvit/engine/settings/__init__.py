"""What is checked of the settings of a training before a run is opened: contradictions, added parts, precision."""
