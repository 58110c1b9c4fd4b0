"""Networks F(x, c) to train."""
