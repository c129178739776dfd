"""The engine on transformers: one decode loop for all requests, in this process."""
