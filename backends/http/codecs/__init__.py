"""Bodies of requests and responses, one file for each protocol, without a network."""
