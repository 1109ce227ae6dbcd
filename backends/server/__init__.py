"""A server of the Open Inference Protocol v2 in front of simulated targets."""
