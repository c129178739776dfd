"""The engine loop, the bridges to it from threads and other loops, and concurrent work with results in order."""
