"""Templates and styles of the reports."""
