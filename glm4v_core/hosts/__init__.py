"""What adapters for a framework are made of."""
