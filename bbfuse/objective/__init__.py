"""The training objective: EOPM, and one step's view of it."""
