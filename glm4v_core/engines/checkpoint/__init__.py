"""Shared by both local engines: the files of a checkpoint, image sizes, tokenization, answers token by token."""
