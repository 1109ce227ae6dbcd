"""What we claim: studies and benchmarks, each with its committed result."""
