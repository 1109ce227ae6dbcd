"""NeuralFuse's study and what answers alone reach in its place."""
