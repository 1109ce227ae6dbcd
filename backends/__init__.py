"""Who answers: targets on simulated low-voltage memory, in process or over HTTP. Knows nothing of optimisation."""
