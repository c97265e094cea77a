"""Sources and the input pipeline: the only place where TensorFlow is imported."""
