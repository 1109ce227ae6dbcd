"""Where bit errors lie: independent cells, cell arrays, measured profiles."""
