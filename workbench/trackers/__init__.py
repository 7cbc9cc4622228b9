"""The metrics of a run for TensorBoard, Weights & Biases, trackio and CSV files, read from its event log."""
