"""Target networks and how they are fitted."""
