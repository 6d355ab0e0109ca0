"""What guards a training: values that are not finite, memory, signals, levels of determinism."""
