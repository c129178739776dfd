"""What a generation of the models reads and writes: pure text, and no library but llguidance."""
