"""What LangChain wants to know about each model before it runs."""
