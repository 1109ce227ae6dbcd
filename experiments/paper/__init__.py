"""NeuralFuse's study and what strict access reaches in its place."""
