"""The memory that a target's weights are stored in: codes, chips, energy."""
