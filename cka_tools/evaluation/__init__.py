"""Fine-tuning on labelled tasks: every model, task and seed a run of its own that is kept and found again."""
