"""Training, whatever the model: the loop, its checkpoints, devices and processes."""
