"""The engine on a remote OpenAI-compatible server."""
