"""The engine loop, the bridges to it from threads and other loops, and work whose results come in order."""
