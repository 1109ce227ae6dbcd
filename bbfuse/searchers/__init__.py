"""Methods that ask for points and are told their losses, by libraries of others."""
